#!/bin/bash
# Copy the database, then the files, to BACKUP_TARGET: a place that rclone knows, on another machine.
# docs/guides/server-operations.md says how to restore from it.
set -euo pipefail
cd "$(dirname "$0")/.."
set -a; . server/.env; RCLONE_QUIET=true; set +a
umask 077
today=$BACKUP_TARGET/days/$(date +%F)
oldest=$(date --date="${BACKUP_DAYS:-30} days ago" +%F)

# The database comes first, so that all files that it names are copied.
dump=$(mktemp)
trap 'rm "$dump"' EXIT
pg_dump --format=custom --file="$dump" "${MLFLOW_BACKEND_STORE_URI##*/}"
rclone copyto "$dump" "$today/mlflow.dump"

# What the server has removed since the last time moves to this day's folder.
rclone sync ":s3:${MLFLOW_ARTIFACTS_DESTINATION#s3://}" "$BACKUP_TARGET/files" --backup-dir "$today/removed"

rclone lsf --dirs-only "$BACKUP_TARGET/days" | while read -r day; do
  if [[ ${day%/} < $oldest ]]; then rclone purge "$BACKUP_TARGET/days/$day"; fi
done
