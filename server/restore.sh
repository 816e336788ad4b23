#!/bin/bash
# Fill the empty database NAME and the new bucket NAME from BACKUP_TARGET, as they were on DAY:
#     BACKUP_TARGET=... server/restore.sh DAY NAME
set -euo pipefail
cd "$(dirname "$0")/.."
set -a; . server/.env; RCLONE_QUIET=true; set +a
umask 077
dump=$(mktemp)
trap 'rm "$dump"' EXIT
rclone copyto "$BACKUP_TARGET/days/$1/mlflow.dump" "$dump"
pg_restore --no-owner --exit-on-error --dbname="$2" "$dump"
rclone mkdir ":s3:$2"
rclone copy "$BACKUP_TARGET/files" ":s3:$2"
# The database may name files that were removed after that day.
rclone lsf -R --dirs-only --max-depth 2 "$BACKUP_TARGET/days" | while read -r folder; do
  if [[ $folder == */removed/ ]]; then rclone copy "$BACKUP_TARGET/days/$folder" ":s3:$2"; fi
done
