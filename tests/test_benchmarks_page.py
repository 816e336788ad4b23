"""The text of docs/reference/benchmarks.md says what its own tables show."""

import re
from statistics import median

import pytest
from doc_tables import tables, text_of
from running import ROOT

pytestmark = pytest.mark.ci
PAGE = tables("benchmarks.md")
TEXT = " ".join(text_of("benchmarks.md").split())
NUMBERS = {"one": 1, "two": 2, "twice": 2, "five": 5, "seven": 7, "eight": 8, "ten": 10}
NUMBERS |= {"twelve": 12, "fourteen": 14, "half": 1 / 2, "a third": 1 / 3, "two thirds": 2 / 3}
NUMBERS |= {"a quarter": 1 / 4, "a seventh": 1 / 7}


def number(text):
    """What a word or some digits of the page mean; other words stay."""
    if text.lower() in NUMBERS:
        return NUMBERS[text.lower()]
    return float(text) if re.fullmatch(r"[\d.]+", text) else text


def medians(row):
    """The medians in a row of a table; an empty cell has none."""
    return [float(cell.split()[0]) for cell in row if cell]


def about(said, rel=0.1):
    return pytest.approx(said, rel=rel)


# Through a server, and comparing runs.
RATES = {tuple(row[:3]): float(row[3]) for row in next(iter(PAGE.values()))}
COMPARED = {
    (row[0], row[1]): (*medians([row[2]]), *medians([row[4]]))
    for row in PAGE["Comparing the runs of a search: 100, 1,000 or 10,000 children"]
}


def compared(what, count="10,000"):
    """The median of all and what each child more costs."""
    return COMPARED[what, count]


POINTS = [
    medians([row[2]])[0] for row in PAGE["A point of a curve: by one call each, or in batches"]
]

# What a child costs: two tables.
CHILD = PAGE["What a child costs"]
HEADS = next(line for line in text_of("benchmarks.md").splitlines() if "| separate |" in line)
FORMS = [cell.strip() for cell in HEADS.split("|")[3:-1]]
SECOND = next(number for number, row in enumerate(CHILD) if row[0] == "Form")
GROWTH = {row[0]: medians(row[1:])[-1] for row in CHILD[SECOND + 2 :]}
BULK_GROWTH = [GROWTH["batched"], GROWTH["client"]]
CHILDREN = [
    {form: float(cell.split()[0]) for form, cell in zip(FORMS, row[2:], strict=True) if cell}
    | {"store": row[0]}
    for row in CHILD[:SECOND]
]
STORES = dict.fromkeys(row["store"] for row in CHILDREN)


def child(form):
    """The ratios of a form, in all rows that have it."""
    return [row[form] for row in CHILDREN if form in row]


def to_batched(form, store):
    """The ratios of a form to the form of hypertune2."""
    rows = [row for row in CHILDREN if row["store"] == store and form in row]
    return [row[form] / row["batched"] for row in rows]


BULK = child("batched") + child("client")

# What tracking costs, and other trackers.
OVERHEAD = {tuple(row[:2]): medians(row[2:5]) for row in PAGE["What tracking costs a search"]}
WHOLE = {key: values[0] for key, values in OVERHEAD.items()}
TRACKERS = {row[0].split()[0]: medians(row[1:]) for row in PAGE["Beside other trackers"]}
IMPORTS = {name: values[1] for name, values in TRACKERS.items()}
IMPORT = IMPORTS.pop("mlflow")

# hypertune3.
PLAIN1, LOGGED1, PLAIN2, LOGGED2 = (medians(row[2:]) for row in PAGE["A second worker"])
SQLITE, POSTGRESQL, ALONE, DEFAULT = (
    medians(row[1:])[-1] for row in PAGE["64 workers and one server"]
)
LIMITS = [medians(row[1:]) for row in PAGE["What limits them"]]  # the rate, then milliseconds
KILLS = [tuple(map(int, row)) for row in PAGE["After a kill"]]


CLAIMS = {
    # What the page says, and whether the tables show it.
    r"eight clients log (half) as much again": lambda half: all(
        RATES[database, "2", "8"] / RATES[database, "1", "8"] == about(1 + half)
        for database in ("SQLite", "PostgreSQL")
    ),
    r"Without it each answer waits (40) milliseconds": lambda wait: (
        1 / RATES["SQLite", "2, without uvloop", "1"] - 1 / RATES["SQLite", "2", "1"]
        == about(3 * wait / 1000)
    ),
    r"children take the script some (five) seconds and ([\d.]+) GB more": lambda seconds, gb: (
        compared("script")[0] - compared("script", "100")[0] == about(seconds)
        and compared("script, peak memory")[0] - compared("script, peak memory", "100")[0]
        == about(1000 * gb)
    ),
    r"Each child more costs about ([\d.]+) milliseconds and (\d+) kB": lambda ms, kb: (
        compared("script")[1] == about(ms) and compared("script, peak memory")[1] == about(kb)
    ),
    r"ten pages of 1,000 took (seven) times as long as": lambda times: (
        compared("by page, sorted")[0] / compared("search_runs, sorted")[0] == about(times)
    ),
    r"in bulk costs ([\d.]+) to ([\d.]+) of one logged call by call": lambda *said: (
        said == (min(BULK), max(BULK))
    ),
    r"and with 10,000 children ([\d.]+) to ([\d.]+) of what": lambda *said: (
        said == (min(BULK_GROWTH), max(BULK_GROWTH))
    ),
    r"Log in bulk, for less than (half)": lambda half: max(child("batched")) < half,
    r"`client` stands for .*? It costs about (a third)": lambda third: (
        median(child("client")) == about(third)
    ),
    r"as much as the last of 16\*\*, (a quarter) more at worst": lambda quarter: (
        max(BULK_GROWTH) < 1 + quarter and 1 - quarter < median(GROWTH.values()) < 1 + quarter
    ),
    r"Part of that is SQLite's own, as `floor` shows": lambda: GROWTH["floor"] > max(BULK_GROWTH),
    r"Asynchronous logging makes it (ten) times slower": lambda ten: (
        median(child("asynchronous")) == about(ten, 0.2) and min(child("asynchronous")) > 0.7 * ten
    ),
    r"BUFFERING_SECONDS=1`.* it costs about what `batched` does": lambda: (
        max(child("asynchronous, buffered")) < 1
        and all(0.5 < median(to_batched("asynchronous, buffered", store)) < 2 for store in STORES)
    ),
    r"Threads don't help": lambda: min(to_batched("4 threads", store)[0] for store in STORES) > 1,
    r"`mlflow.log_table` costs next to nothing": lambda: max(child("one table")) < 0.1,
    r"`floor` is what SQLite itself takes for a child": lambda: max(child("floor")) < min(BULK),
    r"With 5 folds hypertune2 takes ([\d.]+) .*, autolog ([\d.]+) times; "
    r"with 20 folds ([\d.]+) and ([\d.]+)": lambda *said: (
        said == tuple(WHOLE[n, form] for n in ("5", "20") for form in ("hypertune2", "autolog"))
    ),
    r"More than (half) of it is `floor`": lambda part: (
        (WHOLE["5", "floor"] - 1) / (WHOLE["5", "hypertune2"] - 1) > part
    ),
    r"some (\d+) MB more in the process": lambda mb: all(
        (OVERHEAD[n, "hypertune2"][2] - 1) * OVERHEAD[n, "hypertune1"][2] == about(mb, 0.05)
        for n in ("5", "20")
    ),
    r"of half a minute all that hypertune2 logs costs \[(\d+) %\]": lambda part: (
        WHOLE["20", "hypertune2"] == pytest.approx(1 + part / 100, abs=0.001)
    ),
    r"all but (one) of the others are ahead": lambda one: (
        list(TRACKERS).index("mlflow") == len(TRACKERS) - 1 - one
    ),
    r"(Half) of what MLflow adds is its import": lambda half: (
        IMPORT / TRACKERS["mlflow"][0] == about(half)
    ),
    r"(twice) as long as most others'": lambda twice: median(IMPORTS.values()) * twice < IMPORT,
    r"the search takes ([\d.]+) times as long as untracked; the least is (\w+) with ([\d.]+)": (
        lambda ours, name, least: (
            ours == TRACKERS["mlflow"][2]
            and (name, least)
            == min(((name, values[2]) for name, values in TRACKERS.items()), key=lambda one: one[1])
        )
    ),
    r"with two workers hypertune3 takes ([\d.]+), with one ([\d.]+), "
    r"which is close to GridSearchCV's ([\d.]+) and ([\d.]+)": lambda *said: (
        said == (LOGGED2[3], LOGGED1[3], PLAIN2[3], PLAIN1[3])
    ),
    r"takes (a third) off the search.* Off the whole process it takes less": lambda third: (
        LOGGED2[4] == pytest.approx(1 - third, abs=0.04) and LOGGED2[4] < LOGGED2[1]
    ),
    r"costs (a seventh) of the search on one worker, and hardly anything on two": lambda seventh: (
        LOGGED1[5] == pytest.approx(1 + seventh, abs=0.02)
        and LOGGED2[5] == pytest.approx(1, abs=0.02)
    ),
    r"takes ([\d.]+) to ([\d.]+) seconds more": lambda *said: (
        said == pytest.approx((LOGGED2[0] - PLAIN2[0], LOGGED1[0] - PLAIN1[0]), abs=0.05)
    ),
    r"64 workers reach (\d+) % of ideal on PostgreSQL": lambda reached: reached == POSTGRESQL,
    r"on PostgreSQL ends at (\d+) %, on SQLite at (\d+) %": lambda *said: (
        said == (POSTGRESQL, SQLITE)
    ),
    r"Dask alone stays at (\d+) %": lambda stays: stays == ALONE,
    r"Dask alone loses nothing, except by its default": lambda: ALONE > 95 and DEFAULT < 90,
    r"spend ([\d.]+) to ([\d.]+) seconds on a child, "
    r"so (two) cores take some (twelve) children a second": lambda least, most, cores, rate: (
        [least, most] == sorted(round(sum(ms) / 1000, 2) for _, *ms in LIMITS)
        and all(children == about(rate) for children, *_ in LIMITS)
        and all(cores * 1000 / sum(ms) == about(children, 0.15) for children, *ms in LIMITS)
    ),
    r"core of its own would take some (fourteen). Then (64) workers fill it when candidates take "
    r"less than (five) seconds": lambda rate, workers, seconds: all(
        1000 / server == about(rate) and workers * server / 1000 < seconds
        for _, server, *_ in LIMITS
    ),
    r"MLflow's server takes the largest part": lambda: all(max(ms) == ms[0] for _, *ms in LIMITS),
    r"Dask's part is the smallest": lambda: all(
        dask < min(server, workers) for _, server, _, workers, dask in LIMITS
    ),
    r"ended by SIGKILL (eight) times": lambda times: len(KILLS) == times,
    r"10,000 points take ([\d.]+) seconds. One call each would take (\d+) seconds": (
        lambda batches, single: POINTS[2] * 10 == about(batches) and POINTS[0] * 10 == about(single)
    ),
    r"At most what was under way is repeated": lambda: all(
        0 <= repeated <= under_way <= 2 for _, under_way, repeated in KILLS
    ),
    r"hypertune3 stays at (\d) or (\d), a search that logs at its end rises to (\d+) of (16)": (
        lambda one, two, most, of: (
            {repeated for *_, repeated in KILLS} == {one, two}
            and max(finished for finished, *_ in KILLS) == most < of
        )
    ),
}


# Each section's command, and how many rounds its table has been made with.
COMMANDS = re.findall(
    r"^## ([^\n]+)\n(?:(?!^##).)*?^python benchmarks/(\w+)\.py(.*?)$",
    text_of("benchmarks.md"),
    re.MULTILINE | re.DOTALL,
)


def test_every_command_is_found():
    text = text_of("benchmarks.md")
    assert len(COMMANDS) == len(re.findall(r"^python benchmarks/", text, re.MULTILINE)) == 10


@pytest.mark.parametrize(("heading", "script", "options"), COMMANDS, ids=[c[1] for c in COMMANDS])
def test_the_text_says_how_many_rounds_the_command_makes(heading, script, options):
    source = (ROOT / "benchmarks" / f"{script}.py").read_text()
    (default,) = re.findall(r'"--rounds", type=int, default=(\d+)', source)
    rounds = int((re.findall(r"--rounds (\d+)", options) or [default])[0])
    words = {2: "two rounds", 3: "three rounds", 5: "five rounds", 8: "eight times"}
    section = text_of("benchmarks.md").split(f"## {heading}\n")[1].split("\n## ")[0]
    assert [text for text in words.values() if re.search(rf"\b{text}\b", section)] == [
        words[rounds]
    ]
    assert rounds > 2 or not re.search(r"\bmedian", section)


@pytest.mark.parametrize("words", CLAIMS)
def test_the_text_says_what_the_tables_show(words):
    found = re.search(words, TEXT)
    assert found, "the page doesn't say so"
    assert CLAIMS[words](*map(number, found.groups())), found[0]
