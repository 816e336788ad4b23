"""What docs/guides/server-operations.md says of the team's server, with real parts that fail."""

import datetime
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import psutil
import pytest
import requests
from doc_tables import blocks, rows, tables
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client
from running import AS_ROOT, ROOT, run, run_script
from sentences import assert_one_sentence
from services import ENV, free_port
from team import FOLDER, caddy, missing
from team_searches import (
    NOTICE,
    assert_search_is_whole,
    bucket,
    paused,
    start_search,
    statuses_in,
    wait_for_notice,
)

pytestmark = pytest.mark.ci
PAGE = "server-operations.md"
(HEALTH,) = (block for block in blocks(PAGE, "bash") if "curl" in block)
(GC,) = (block for block in blocks(PAGE, "bash") if "mlflow gc" in block)
(STEP_6,) = (block for block in blocks("team-server.md", "bash") if "rclone copy -q :s3" in block)
FAILURES = "When a part fails"
needs_mounts = pytest.mark.skipif(not AS_ROOT, reason="needs root, for a small disk")


@pytest.fixture(scope="module")
def place(team, tmp_path_factory):
    """A folder such as /srv/mlflow, with the team's server/.env."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(FOLDER, folder / "server", ignore=shutil.ignore_patterns(".env"))
    settings = team.environment("mlflow").items()
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in settings]
    (folder / "server" / ".env").write_text("".join(lines))
    return folder


def shell(block, place, team, **env):
    """Run commands of the page as the admin; return the finished process."""
    block = block.replace("http://127.0.0.1:5000", team.uri)
    return run(["bash", "-ec", block], place, **env)


def run_with_file(name):
    """Log a run with a file as ada, into the experiment NAME; return its ID."""
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name(name)
    number = experiment.experiment_id if experiment else client.create_experiment(name)
    run_id = client.create_run(number).info.run_id
    client.log_text(run_id, "x", "note.txt")
    return run_id


@pytest.fixture(autouse=True)
def as_ada(team, monkeypatch):
    for name, value in team.client("ada").items():
        monkeypatch.setenv(name, value)


def answers(team, user, password, count=20):
    """How often which status comes back; so many calls reach both workers."""
    path = f"{team.uri}/api/2.0/mlflow/experiments/get?experiment_id=0"
    calls = (requests.get(path, auth=(user, password), timeout=60) for _ in range(count))
    return Counter(call.status_code for call in calls)


# Users: the last test looks a minute later


@pytest.fixture(scope="module")
def forgotten(team):
    """When the admin gave a user another password, and that is by now out of date."""
    with patch.dict(os.environ, team.client("admin")):
        admin = get_app_client("basic-auth", tracking_uri=team.uri)
        admin.create_user("carl", "forgotten-by-carl")
        assert answers(team, "carl", "forgotten-by-carl") == {200: 20}
        admin.update_user_password("carl", "second-password-of-carl")
    return time.monotonic()


def test_a_new_password_works_at_once_and_so_does_the_old_one(team, forgotten):
    assert answers(team, "carl", "second-password-of-carl") == {200: 20}
    assert set(answers(team, "carl", "forgotten-by-carl")) == {200, 401}


def test_what_a_user_made_stays_when_the_user_leaves(team):
    users = get_app_client("basic-auth", tracking_uri=team.uri)
    admin = team.client("admin")
    dora = {"MLFLOW_TRACKING_USERNAME": "dora", "MLFLOW_TRACKING_PASSWORD": "password-of-dora"}
    client = MlflowClient(team.uri)
    with patch.dict(os.environ, admin):
        users.create_user("dora", "password-of-dora")
    with patch.dict(os.environ, dora):
        run_id = run_with_file("of dora")
        experiment = client.get_run(run_id).info.experiment_id
    assert answers(team, "dora", "password-of-dora") == {200: 20}
    with patch.dict(os.environ, admin):
        users.delete_user("dora")
    # The worker that remembers her lets her in, but finds no such user.
    assert set(answers(team, "dora", "password-of-dora")) <= {401, 404}
    assert client.get_run(run_id).info.experiment_id == experiment
    assert [key for key in bucket(team) if f"{run_id}/artifacts/note.txt" in key]
    # Somebody else of that name owns nothing, and bob doesn't either until the admin says so.
    with patch.dict(os.environ, admin):
        users.create_user("dora", "password-of-another")
    another = dora | {"MLFLOW_TRACKING_PASSWORD": "password-of-another"}
    for login in another, team.client("bob"):
        with patch.dict(os.environ, login), pytest.raises(MlflowException, match="403"):
            client.create_run(experiment)
    with patch.dict(os.environ, admin):
        users.grant_user_permission("bob", "experiment", experiment, "MANAGE")
    with patch.dict(os.environ, team.client("bob")):
        client.delete_run(run_id)


def test_nobody_owns_what_was_moved_into_the_database(team):
    login = "{PGUSER}:{PGPASSWORD}@{PGHOST}:{PGPORT}".format(**team.environment("mlflow"))
    moved = MlflowClient(f"postgresql+psycopg://{login}/mlflow").create_experiment("moved")
    client = MlflowClient(team.uri)
    with pytest.raises(MlflowException, match="403"):
        client.create_run(moved)
    with patch.dict(os.environ, team.client("admin")):
        users = get_app_client("basic-auth", tracking_uri=team.uri)
        users.grant_user_permission("ada", "experiment", moved, "MANAGE")
    assert client.create_run(moved).info.status == "RUNNING"


# Is it well?


def test_the_pages_calls_see_what_health_does_not(team, place):
    def codes():
        found = [shell(f"{login}{line}", place, team).returncode for line in lines]
        assert requests.get(f"{team.uri}/health", timeout=30).text == "OK"
        return found

    login, *lines = HEALTH.splitlines(keepends=True)
    assert codes() == [0, 0]
    team.postgres.stop()
    try:
        assert codes() == [22, 22]
    finally:
        team.postgres.start()
    team.s3.stop()
    try:
        assert codes() == [0, 22]
    finally:
        team.start_s3()
    assert codes() == [0, 0]


# Remove for good


def test_only_the_pages_form_of_gc_removes(team, place, tmp_path):
    run_id = run_with_file("removed")
    MlflowClient(team.uri).delete_run(run_id)
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    admin = team.client("admin")
    backend = re.search(r" --backend-store-uri \$\w+", GC)[0]

    def kept():
        of_run = f"SELECT count(*) FROM runs WHERE run_uuid = '{run_id}'"
        return team.query(of_run) == [(1,)] and any(run_id in key for key in bucket(team))

    no_backend, silent, no_address, no_password = tables(PAGE)["Remove for good"]
    login, address = team.login("admin"), {"MLFLOW_TRACKING_URI": team.uri}
    for (_, said), block, env in [
        (no_backend, GC.replace(backend, ""), admin),
        (no_address, GC, login),
        (no_password, GC, address),
    ]:
        done = shell(block, tmp_path, team, **env)
        assert done.returncode == 1 and said.strip("*`") in done.stderr and kept()
    assert "nothing is said" in silent[1] and not (tmp_path / "mlflow.db").exists()
    block = GC.replace(backend, f" --tracking-uri {team.uri}")
    done = shell(block, tmp_path, team, **login)
    assert (done.returncode, done.stdout) == (0, "") and (tmp_path / "mlflow.db").exists()
    assert "deleted" not in done.stderr and kept()
    done = shell(GC, tmp_path, team, **admin)
    assert (done.returncode, kept()) == (0, False), done.stderr
    assert f"Run with ID {run_id} has been permanently deleted.\n" in done.stdout
    assert not any(run_id in key for key in bucket(team))


def names_in(dump, place):
    """The part of the dump that holds the runs."""
    command = ["pg_restore", "--data-only", "--table=runs", "--file=-", dump]
    return run(command, place).stdout


def runs_with_files(folder):
    """The IDs of the runs of `run_with_file` whose file is in this copy of the bucket."""
    return {path.parts[-3] for path in folder.rglob("note.txt")}


def test_gc_between_the_halves_of_a_backup_breaks_it(team, place, tmp_path):
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    admin = team.client("admin")
    earlier = run_with_file("backups")
    assert shell(STEP_6, tmp_path, team).returncode == 0
    later = run_with_file("backups")
    for run_id in earlier, later:
        MlflowClient(team.uri).delete_run(run_id)
    dump, copy = STEP_6.split("\nrclone copy")
    between = f"{dump})\n{GC}(set -a; . server/.env\nrclone copy{copy}"
    done = shell(between, tmp_path, team, **admin)
    assert done.returncode == 0, done.stderr
    in_dump = names_in("mlflow.dump", tmp_path)
    assert earlier in in_dump and later in in_dump
    copied = runs_with_files(tmp_path / "files-backup")
    # What `gc` removed before the copy is missing, but what an earlier copy took stays.
    assert earlier in copied and later not in copied


def test_each_kept_day_of_the_nightly_backup_finds_its_files(team, place, tmp_path):
    def day(ago):
        return str(datetime.date.today() - datetime.timedelta(days=ago))

    def back_up():
        env = {"BACKUP_TARGET": str(tmp_path), "BACKUP_DAYS": "30"}
        done = run([place / "server" / "backup.sh"], tmp_path, **env)
        assert (done.returncode, done.stderr) == (0, "")

    days = tmp_path / "days"
    for ago in 31, 30:
        (days / day(ago)).mkdir(parents=True)
        (days / day(ago) / "mlflow.dump").touch()
    kept, gone = run_with_file("nightly"), run_with_file("nightly")
    back_up()
    assert sorted(path.name for path in days.iterdir()) == [day(30), day(0)]
    (days / day(0)).rename(days / day(1))
    MlflowClient(team.uri).delete_run(gone)
    assert shell(GC, place, team, **team.client("admin")).returncode == 0
    back_up()

    files = runs_with_files(tmp_path / "files")
    assert kept in files and gone not in files
    removed = runs_with_files(days / day(0) / "removed")
    assert gone in removed and kept not in removed
    assert gone in names_in(days / day(1) / "mlflow.dump", place)
    assert gone not in names_in(days / day(0) / "mlflow.dump", place)
    assert (days / day(0) / "mlflow.dump").stat().st_mode & 0o777 == 0o600
    # What the dump of yesterday names is restored, too.
    team.postgres.sql("CREATE DATABASE restored OWNER mlflow")
    command = [place / "server" / "restore.sh", day(1), "restored"]
    done = run(command, tmp_path, BACKUP_TARGET=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert {kept, gone} <= runs_with_files(team.files.parent / "restored")
    of_run = f"--command=SELECT count(*) FROM runs WHERE run_uuid = '{gone}'"
    assert team.postgres.client("psql", "--tuples-only", of_run, "restored").strip() == "1"


def test_the_units_are_right_and_may_little(tmp_path):
    if not shutil.which("systemd-analyze"):
        missing("systemd-analyze", "systemd")
    for name in "mlflow.service", "mlflow-backup.service", "mlflow-backup.timer":
        text = (FOLDER / name).read_text().replace("User=mlflow", "User=root")
        text = text.replace(
            "/srv/mlflow/.venv/bin/mlflow", shutil.which("mlflow", path=ENV["PATH"])
        )
        text = text.replace("/srv/mlflow/server/backup.sh", str(FOLDER / "backup.sh"))
        (tmp_path / name).write_text(text)
    units = [str(tmp_path / name) for name in ("mlflow.service", "mlflow-backup.timer")]
    result = run(["systemd-analyze", "verify", *units], tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert os.access(FOLDER / "backup.sh", os.X_OK)
    # systemd's measure of what it may goes from 0 to 10. Without the options it is 9.0.
    services = "mlflow.service", "mlflow-s3.service", "mlflow-backup.service"
    texts = [(FOLDER / name).read_text().partition("NoNewPrivileges") for name in services]
    assert len({options.split("\n[")[0].strip() for _, _, options in texts}) == 1  # "The same as"
    for name in services:
        measure = ["systemd-analyze", "security", "--offline=true", "--threshold=15"]
        result = run([*measure, str(FOLDER / name)], tmp_path)
        assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", ["mlflow-s3", "mlflow-backup"])
def test_rclone_starts_for_a_user_without_a_home(name):
    """The units hide /home. rclone ends if it can't look into a home for its settings."""
    unit = (FOLDER / f"{name}.service").read_text()
    env = dict(re.findall(r"^Environment=(RCLONE_\w+)=(.*)", unit, re.MULTILINE))
    result = run(["rclone", "lsf", str(FOLDER)], FOLDER, **env | {"HOME": "/dev/null"})
    assert (result.returncode, result.stderr) == (0, "")


# When a part fails


OTHERS = {  # rows that tests/test_team_server.py runs
    "MLflow is killed and started again": "test_server_killed_in_mid_search_and_started_again",
    "MLflow is killed for good": "test_server_killed_for_good_ends_by_ctrl_c",
    "PostgreSQL stops and starts again": "test_database_stopped_in_mid_search_and_started_again",
}


def row(name):
    """What the page's row says that the client sees, the codes in it, and what the stores hold."""
    return rows(PAGE)[name]


def said_in(cell, text):
    """Whether each code of the cell stands in the text."""
    return all(word in text for word in re.findall("`(.*?)`", cell))


def errors_of(folder):
    return (folder / "errors").read_text()


def test_each_row_is_run():
    here = (ROOT / "tests" / "test_server_operations.py").read_text()
    there = (ROOT / "tests" / "test_team_server.py").read_text()
    for name, *_ in tables(PAGE)[FAILURES]:
        if name in OTHERS:
            assert f"def {OTHERS[name]}" in there
        else:
            assert f'row("{name}")' in here, name


def workers_of(team):
    """The processes in which MLflow answers."""
    children = psutil.Process(team.mlflow.process.pid).children(recursive=True)
    return [each for each in children if "spawn_main" in " ".join(each.cmdline())]


def test_one_worker_is_killed(team, tmp_path):
    row("One worker of MLflow is killed")
    process = start_search(team, tmp_path)
    with paused(process):
        workers = workers_of(team)
        assert len(workers) == 2
        workers[0].kill()
    assert_search_is_whole(team, process)
    assert all(line.startswith(NOTICE) for line in errors_of(tmp_path).splitlines())
    now = [each.pid for each in workers_of(team)]
    assert len(now) == 2 and workers[0].pid not in now


def test_s3_is_killed_and_started_again(team, tmp_path):
    sees, _ = row("S3 stops and starts again")
    process = start_search(team, tmp_path)
    team.s3.stop(signal.SIGKILL)
    try:
        wait_for_notice(tmp_path)
    finally:
        team.start_s3()
    parent = assert_search_is_whole(team, process)
    assert said_in(sees, errors_of(tmp_path)) and "/mlflow-artifacts/" in errors_of(tmp_path)
    assert any(f"{parent}/artifacts/heatmap.png" in key for key in bucket(team))


def test_the_proxy_is_killed_and_started_again(team, tmp_path):
    sees, _ = row("The proxy stops and starts again")
    port = free_port()
    with ExitStack() as proxy:
        uri, authority = proxy.enter_context(caddy(tmp_path, team.uri, port))
        env = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_TRACKING_SERVER_CERT_PATH": authority}
        process = start_search(team, tmp_path, **env)
        with paused(process):
            proxy.close()
    wait_for_notice(tmp_path)
    with caddy(tmp_path, team.uri, port):
        assert_search_is_whole(team, process)
    assert said_in(sees, errors_of(tmp_path))


@contextmanager
def small_disk(folder, size):
    """A disk of this size at FOLDER, until the end."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@needs_mounts
def test_the_disk_under_s3_is_full(team, tmp_path):
    sees, _ = row("The disk under S3 is full")
    before = statuses_in(team, "basic-run")
    with small_disk(team.files, "64k"):
        # A client that gives up: the run has its values, but not all files.
        failed = run_script(
            "basic_run", tmp_path, **team.client("ada"), MLFLOW_HTTP_REQUEST_MAX_RETRIES="1"
        )
        assert failed.returncode == 1
        assert "/mlflow-artifacts/" in failed.stderr.splitlines()[-1]
        after = statuses_in(team, "basic-run")
        ((run_id, status),) = after.items() - before.items()
        assert status == "FAILED"
        assert MlflowClient(team.uri).get_run(run_id).data.metrics["test_accuracy"] > 0.9
        # One that waits, as by default, goes on.
        with (tmp_path / "errors").open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, ROOT / "src" / "basic_run.py"],
                cwd=tmp_path,
                env=ENV | team.client("ada"),
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        wait_for_notice(tmp_path, 120)  # it begins with its imports
        subprocess.run(["mount", "-o", "remount,size=50m", team.files], check=True)
        assert process.wait(300) == 0
        ((run_id, status),) = statuses_in(team, "basic-run").items() - after.items()
        assert status == "FINISHED"
        keys = bucket(team)
        assert any(f"{run_id}/artifacts/confusion_matrix.png" in key for key in keys)
        assert any(key.endswith("/artifacts/model.skops") for key in keys)
    assert said_in(sees, errors_of(tmp_path))


@needs_mounts
def test_the_disk_under_postgresql_is_full(team, tmp_path):
    """Two tables are on the full disk. A database writes to them first."""
    sees, _ = row("The disk under PostgreSQL is full")
    disk = team.postgres.folder / "small"
    disk.mkdir()

    def move(space):
        for table in "runs", "metrics":
            move = f"--command=ALTER TABLE {table} SET TABLESPACE {space}"
            team.postgres.client("psql", "--quiet", move, "mlflow")

    with small_disk(disk, "20m"):
        shutil.chown(disk, "postgres")
        team.postgres.sql(f"CREATE TABLESPACE small LOCATION '{disk}'")
        try:
            move("small")
            process = start_search(team, tmp_path)
            logged = len(team.mlflow.log.read_text())
            rest = (disk / "rest").open("wb", buffering=0)
            with rest, pytest.raises(OSError, match="No space left"):
                while True:
                    rest.write(bytes(65536))
            while "No space left on device" not in team.mlflow.log.read_text()[logged:]:
                assert process.poll() is None
                time.sleep(0.2)
            (disk / "rest").unlink()
            assert_search_is_whole(team, process)
        finally:
            (disk / "rest").unlink(missing_ok=True)
            move("pg_default")
            team.postgres.sql("DROP TABLESPACE small")
    assert said_in(sees, errors_of(tmp_path) + team.mlflow.log.read_text()[logged:])
    assert all(line.startswith("Retry: ") for line in errors_of(tmp_path).splitlines())


def make_expired_certificate(folder):
    """Write a certificate of yesterday for localhost, and its key; return both paths."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=90))
        .not_valid_after(now - datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return paths


def test_the_certificate_expired(team, tmp_path):
    sees, _ = row("The certificate expired")
    certificate, key = make_expired_certificate(tmp_path)
    before = statuses_in(team, "basic-run")
    with caddy(tmp_path, team.uri, tls=f"{certificate} {key}") as (uri, _authority):
        env = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_TRACKING_SERVER_CERT_PATH": str(certificate)}
        result = run_script("basic_run", tmp_path, **team.login("ada"), **env)
    assert_one_sentence(result, "certificate has expired", longest=400)
    assert said_in(sees, result.stderr)
    assert statuses_in(team, "basic-run") == before


def test_a_backup_is_restored_while_a_client_logs(team, tmp_path):
    sees, _ = row("A backup is restored while a client logs")
    before = statuses_in(team, "hypertune2")
    team.postgres.client(
        "pg_dump", "--format=custom", f"--file={team.postgres.folder}/dump", "mlflow"
    )
    process = start_search(team, tmp_path)
    with paused(process):
        team.mlflow.stop()
        team.postgres.client("dropdb", "--force", "mlflow")
        team.postgres.client("createdb", "--owner=mlflow", "mlflow")
        team.postgres.client("pg_restore", "--dbname=mlflow", f"{team.postgres.folder}/dump")
        team.start_mlflow()
    process.communicate(timeout=300)
    assert process.returncode == 1
    assert said_in(sees, errors_of(tmp_path)), errors_of(tmp_path)
    assert statuses_in(team, "hypertune2") == before


# Last: a minute has passed


def test_after_a_minute_the_old_password_is_out(team, forgotten):
    time.sleep(max(0, forgotten + 62 - time.monotonic()))
    assert answers(team, "carl", "forgotten-by-carl") == {401: 20}
    assert answers(team, "carl", "second-password-of-carl") == {200: 20}
