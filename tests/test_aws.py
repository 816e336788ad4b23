"""The commands of docs/guides/aws.md, run against moto, which answers as Amazon does."""

import base64
import json
import re
import shutil
from contextlib import closing

import boto3
import pytest
import requests
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError
from doc_tables import blocks, tables, text_of
from dotenv import dotenv_values
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository
from running import ROOT, run
from services import Service, free_port

pytestmark = pytest.mark.ci
PAGE = text_of("aws.md")
FILES = ROOT / "server" / "aws"
COMMANDS, SHELL = [], []
for each in blocks("aws.md", "bash"):
    (SHELL if each.startswith("aws ssm") else COMMANDS).append(each)
# What a reader writes for the page's values.
REGION, NAME, TEAM = "eu-west-1", "files-of-ada", "198.51.100.0/24"
OWN = {"us-east-1": REGION, "mlflow-example": NAME, "203.0.113.0/24": TEAM}
OWN |= {"mlflow.example.com": "ml.example.org"}
OWN |= {"https://example.com/MLflow-Basics": "https://example.org/ada/lessons.git"}


def own(text):
    """TEXT with the reader's values."""
    for shown, value in OWN.items():
        text = text.replace(shown, value)
    return text


class Amazon:
    """moto's server, and clients of it."""

    def __init__(self, folder):
        port = free_port()
        command = ["moto_server", "--port", str(port)]
        self.service = Service(command, folder, port, path="/moto-api/")
        self.env = {"AWS_ENDPOINT_URL": self.service.uri}
        self.env |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}

    def close(self):
        self.service.stop()

    def client(self, name, key="any", secret="any", token=None):
        where = {"region_name": REGION, "endpoint_url": self.service.uri}
        return boto3.Session(key, secret, token).client(name, **where)

    def check_rights(self, on):
        """Whether a call needs the right to it, as at Amazon."""
        free_calls = "0" if on else "inf"
        answer = requests.post(f"{self.service.uri}/moto-api/reset-auth", free_calls, timeout=30)
        answer.raise_for_status()

    def keys(self):
        """The temporary keys that Amazon gives to the machine."""
        role = f"arn:aws:iam::123456789012:role/{NAME}"
        answer = self.client("sts").assume_role(RoleArn=role, RoleSessionName="machine")
        return [
            answer["Credentials"][name]
            for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")
        ]


@pytest.fixture(scope="module")
def amazon(tmp_path_factory):
    """Amazon after the page's commands, and what they printed."""
    folder = tmp_path_factory.mktemp("moto")
    amazon = Amazon(folder)
    with closing(amazon):
        script = "\n".join([own(COMMANDS[0]), *COMMANDS[1:-1]])
        result = run(["bash", "-euo", "pipefail", "-c", script], ROOT, **amazon.env)
        assert (result.returncode, result.stderr) == (0, "")
        amazon.printed = result.stdout
        yield amazon


# What the commands leave


def test_there_are_as_many_commands_as_the_page_says():
    on_page = [len(re.findall(r"\baws \w", text)) for text in ("".join(COMMANDS), "".join(SHELL))]
    assert on_page == [14, 1]
    assert "Fourteen\ncommands make it, one more opens a shell on it" in PAGE


def test_the_bucket_is_private_versioned_and_encrypted(amazon):
    s3 = amazon.client("s3")
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == [NAME]
    assert s3.get_bucket_location(Bucket=NAME)["LocationConstraint"] == REGION
    blocked = s3.get_public_access_block(Bucket=NAME)["PublicAccessBlockConfiguration"]
    assert len(blocked) == 4 and set(blocked.values()) == {True}
    assert s3.get_bucket_versioning(Bucket=NAME)["Status"] == "Enabled"
    encryption = s3.get_bucket_encryption(Bucket=NAME)["ServerSideEncryptionConfiguration"]
    (rule,) = encryption["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}


def test_only_machines_take_the_role_and_it_has_the_rights_of_the_file_alone(amazon):
    iam = amazon.client("iam")
    (role,) = iam.list_roles()["Roles"]
    (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "ec2.amazonaws.com"}
    assert iam.list_role_policies(RoleName=NAME)["PolicyNames"] == [NAME]
    assert iam.list_attached_role_policies(RoleName=NAME)["AttachedPolicies"] == []
    policy = iam.get_role_policy(RoleName=NAME, PolicyName=NAME)["PolicyDocument"]
    assert policy == json.loads(own((FILES / "policy.json").read_text()))
    files, shell = policy["Statement"]
    assert files["Resource"] == [f"arn:aws:s3:::{NAME}", f"arn:aws:s3:::{NAME}/*"]
    assert {right.split(":")[0] for right in shell["Action"]} == {"ssm", "ssmmessages"}
    assert len(shell["Action"]) == 5  # the page says so
    assert iam.list_users()["Users"] == []


def test_two_ports_are_open(amazon):
    groups = amazon.client("ec2").describe_security_groups(GroupNames=[NAME])["SecurityGroups"]
    found = {}
    for rule in groups[0]["IpPermissions"]:
        others = ("Ipv6Ranges", "PrefixListIds", "UserIdGroupPairs")
        assert not any(rule[other] for other in others)
        ports = (rule["IpProtocol"], rule["FromPort"], rule["ToPort"])
        found[ports] = [each["CidrIp"] for each in rule["IpRanges"]]
    assert found == {("tcp", 443, 443): [TEAM], ("tcp", 80, 80): ["0.0.0.0/0"]}


def test_the_machine_has_the_role_the_ports_the_address_and_the_start_script(amazon):
    ec2, iam = amazon.client("ec2"), amazon.client("iam")
    (machines,) = ec2.describe_instances()["Reservations"]
    (machine,) = machines["Instances"]
    assert machine["State"]["Name"] == "running"
    assert machine["ImageId"] == "resolve:ssm:/aws/service/debian/release/12/latest/amd64"
    assert machine["IamInstanceProfile"]["Arn"].endswith(f":instance-profile/{NAME}")
    profile = iam.get_instance_profile(InstanceProfileName=NAME)["InstanceProfile"]
    assert [role["RoleName"] for role in profile["Roles"]] == [NAME]
    assert machine["MetadataOptions"]["HttpTokens"] == "required"
    (interface,) = machine["NetworkInterfaces"]
    assert [group["GroupName"] for group in interface["Groups"]] == [NAME]
    (address,) = ec2.describe_addresses()["Addresses"]
    assert address["InstanceId"] == machine["InstanceId"]
    assert f"Let ml.example.org have the address {address['PublicIp']}\n" in amazon.printed
    (disk,) = ec2.describe_volumes()["Volumes"]
    assert (disk["Encrypted"], disk["Size"]) == (True, 30)
    assert f"| machine `{machine['InstanceType']}`," in PAGE and "| 30 GB at " in PAGE
    assert "KeyName" not in machine  # nobody logs in by SSH
    user_data = {"InstanceId": machine["InstanceId"], "Attribute": "userData"}
    sent = ec2.describe_instance_attribute(**user_data)["UserData"]["Value"]
    assert base64.b64decode(sent).decode() + "\n" == own((FILES / "start.sh").read_text())


# What the role may do


def calls_that_fail(amazon, folder):
    """Use MLflow's repository of files with the role's keys; return the calls that fail."""
    where = f"s3://{NAME}/1/run/artifacts"
    names = ("access_key_id", "secret_access_key", "session_token")
    repo = S3ArtifactRepository(where, **dict(zip(names, amazon.keys(), strict=True)))
    small, large = folder / "small.txt", folder / "large.bin"
    small.write_text("small")
    large.write_bytes(bytes(9_000_000))  # boto3 sends it in parts

    def put_and_stop():
        upload = repo.create_multipart_upload("other.bin", 1)
        repo.abort_multipart_upload("other.bin", upload.upload_id)

    def delete():
        repo.delete_artifacts()
        assert repo.list_artifacts() == []

    calls = {
        "put": lambda: repo.log_artifact(str(small)),
        "put in parts": lambda: repo.log_artifact(str(large)),
        "put and stop": put_and_stop,
        "list": lambda: repo.list_artifacts(),
        "get": lambda: repo._download_file("small.txt", str(folder / "got.txt")),
        "delete": delete,
    }
    failed = []
    amazon.client("s3").put_object(Bucket=NAME, Key="1/run/artifacts/small.txt", Body=b"small")
    amazon.check_rights(True)
    try:
        for name, call in calls.items():
            try:
                call()
            except (AssertionError, ClientError, MlflowException, S3UploadFailedError):
                failed.append(name)
    finally:
        amazon.check_rights(False)
    return failed


def test_the_role_may_do_what_mlflow_does_and_needs_each_right(amazon, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", amazon.service.uri)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    iam = amazon.client("iam")
    assert calls_that_fail(amazon, tmp_path) == []
    policy = json.loads(own((FILES / "policy.json").read_text()))
    rights = policy["Statement"][0]["Action"]
    failed = {}
    for right in rights:
        policy["Statement"][0]["Action"] = [each for each in rights if each != right]
        document = json.dumps(policy)
        iam.put_role_policy(RoleName=NAME, PolicyName=NAME, PolicyDocument=document)
        failed[right] = calls_that_fail(amazon, tmp_path)
    policy["Statement"][0]["Action"] = rights
    iam.put_role_policy(RoleName=NAME, PolicyName=NAME, PolicyDocument=json.dumps(policy))
    assert failed == {
        "s3:ListBucket": ["list", "delete"],
        "s3:GetObject": ["get"],
        "s3:PutObject": ["put", "put in parts", "put and stop"],
        "s3:AbortMultipartUpload": ["put and stop"],
        "s3:DeleteObject": ["delete"],
    }


def test_the_role_may_do_nothing_else(amazon):
    s3 = amazon.client("s3")
    s3.create_bucket(Bucket="other", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket="other", Key="a", Body=b"a")
    version = s3.put_object(Bucket=NAME, Key="a", Body=b"a")["VersionId"]
    keys = amazon.keys()
    s3, iam, ec2 = (amazon.client(name, *keys) for name in ("s3", "iam", "ec2"))
    suspended = {"Status": "Suspended"}
    public = {"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}]}
    calls = {
        "list another bucket": lambda: s3.list_objects_v2(Bucket="other"),
        "get from it": lambda: s3.get_object(Bucket="other", Key="a"),
        "put into it": lambda: s3.put_object(Bucket="other", Key="b", Body=b"b"),
        "delete in it": lambda: s3.delete_object(Bucket="other", Key="a"),
        "list all buckets": lambda: s3.list_buckets(),
        "make a bucket": lambda: s3.create_bucket(Bucket="third"),
        "delete an old version": lambda: s3.delete_object(Bucket=NAME, Key="a", VersionId=version),
        "stop keeping versions": lambda: s3.put_bucket_versioning(
            Bucket=NAME, VersioningConfiguration=suspended
        ),
        "open the bucket": lambda: s3.put_bucket_policy(Bucket=NAME, Policy=json.dumps(public)),
        "open a file": lambda: s3.put_object_acl(Bucket=NAME, Key="a", ACL="public-read"),
        "delete the bucket": lambda: s3.delete_bucket(Bucket=NAME),
        "make a user": lambda: iam.create_user(UserName="mallory"),
        "see the machines": lambda: ec2.describe_instances(),
    }
    allowed = []
    amazon.check_rights(True)
    try:
        for name, call in calls.items():
            try:
                call()
                allowed.append(name)
            except ClientError as error:
                assert error.response["Error"]["Code"] == "AccessDenied", name
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            amazon.client("s3", keys[0], "wrong", keys[2]).list_objects_v2(Bucket=NAME)
    finally:
        amazon.check_rights(False)
    assert allowed == []
    amazon.client("s3").delete_object(Bucket="other", Key="a")
    amazon.client("s3").delete_bucket(Bucket="other")


def test_rclone_copies_with_the_role_and_the_settings(amazon, tmp_path):
    env = {k: v for k, v in write_settings(tmp_path).items() if k.startswith("RCLONE")}
    # For Amazon's own, rclone wants TLS.
    env |= {"RCLONE_S3_ENDPOINT": amazon.service.uri, "RCLONE_S3_PROVIDER": "Other"}
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    env |= dict(zip(names, amazon.keys(), strict=True))
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "a.txt").write_text("a")
    amazon.check_rights(True)
    try:
        for source, target in ("mlruns", f":s3:{NAME}/moved"), (f":s3:{NAME}/moved", "backup"):
            result = run(["rclone", "copy", "-q", source, target], tmp_path, **env)
            assert (result.returncode, result.stderr) == (0, "")
    finally:
        amazon.check_rights(False)
    assert (tmp_path / "backup" / "a.txt").read_text() == "a"


# The start script, and the page


def write_settings(folder):
    """Make FOLDER/server/.env as the start script does; return what is in it."""
    (folder / "server").mkdir()
    shutil.copy(ROOT / "server" / ".env.example", folder / "server")
    script = own((FILES / "start.sh").read_text())
    values = re.search(r"^REPO=.*?(?=\n\n)", script, re.MULTILINE | re.DOTALL)[0]
    command = re.search(r"^perl .*? > server/\.env$", script, re.MULTILINE | re.DOTALL)[0]
    result = run(["bash", "-euo", "pipefail", "-c", f"{values}\n{command}"], folder)
    assert (result.returncode, result.stderr) == (0, "")
    return dotenv_values(folder / "server" / ".env")


def test_the_start_script_writes_settings_without_keys(tmp_path):
    settings = write_settings(tmp_path)
    changed = {
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{NAME}",
        "AWS_DEFAULT_REGION": REGION,
        "RCLONE_S3_PROVIDER": "AWS",
        "RCLONE_S3_REGION": REGION,
        "MLFLOW_SERVER_ALLOWED_HOSTS": "ml.example.org,localhost:*,127.0.0.1:*",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "https://ml.example.org",
    }
    secrets = {"PGPASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"}
    assert {name for name, value in settings.items() if re.fullmatch("[0-9a-f]{32}", value)} == (
        secrets
    )
    assert len({settings[name] for name in secrets}) == 3
    before = dotenv_values(ROOT / "server" / ".env.example")
    gone = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    gone |= {"MLFLOW_S3_ENDPOINT_URL", "RCLONE_S3_ENDPOINT"}
    assert set(before) - set(settings) == gone
    other = {name for name in settings if settings[name] != before[name]}
    assert other == secrets | set(changed)
    assert {name: settings[name] for name in changed} == changed


def test_the_start_script_does_what_is_done_by_hand():
    script, by_hand = (FILES / "start.sh").read_text(), text_of("team-server.md")
    postgres = re.search(r"^export PASSWORD=.*?^unset PASSWORD\n", script, re.M | re.S)[0]
    assert postgres in by_hand
    installed = re.search(r"^install (.*)$", script, re.MULTILINE)[1]
    packages = re.search(r"^apt-get install -y (.*)$", by_hand, re.MULTILINE)[1].split()
    assert set(packages) < set(installed.split())
    for command in "systemctl enable --now mlflow", "useradd --system mlflow":
        assert f"\n{command}\n" in script and f"\n{command}\n" in by_hand
    for name in set(re.findall(r"\bserver/[\w./]+\w", script)) - {"server/.env"}:
        assert (ROOT / name).exists(), name


def test_the_cost_is_the_sum_of_its_parts():
    (parts,) = (rows for heading, rows in tables("aws.md").items() if heading == "What it costs")
    total = 0
    for _, price, month in parts:
        number, rate = map(float, re.fullmatch(r"(\d+) \w+ at ([\d.]+)", price).groups())
        assert month == f"{number * rate:.2f}"
        total += number * rate
    assert f"costs about {total:.0f} dollars" in PAGE


# Last: it removes what the others look at


def test_the_removal_leaves_nothing(amazon):
    s3, ec2, iam = (amazon.client(name) for name in ("s3", "ec2", "iam"))
    for number in range(310):  # more than the script deletes at once
        s3.put_object(Bucket=NAME, Key=f"1/{number}", Body=b"")
    s3.delete_object(Bucket=NAME, Key="1/0")
    result = run(["bash", "-c", own(COMMANDS[-1])], ROOT, **amazon.env)
    assert (result.returncode, result.stderr) == (0, "")
    assert s3.list_buckets()["Buckets"] == []
    machines = ec2.describe_instances()["Reservations"]
    states = {each["State"]["Name"] for group in machines for each in group["Instances"]}
    assert states <= {"terminated"}
    assert ec2.describe_volumes()["Volumes"] == ec2.describe_addresses()["Addresses"] == []
    groups = ec2.describe_security_groups()["SecurityGroups"]
    assert {group["GroupName"] for group in groups} == {"default"}
    assert iam.list_roles()["Roles"] == iam.list_instance_profiles()["InstanceProfiles"] == []
