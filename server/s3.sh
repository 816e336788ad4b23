#!/bin/bash
# Serve each folder in s3 as a bucket of S3, with the keys in server/.env:
#     server/s3.sh --addr 127.0.0.1:9000
set -euo pipefail
cd "$(dirname "$0")/.."
set -a; . server/.env
# Not in the command line, which every user of the machine can read.
RCLONE_AUTH_KEY="\"$AWS_ACCESS_KEY_ID,$AWS_SECRET_ACCESS_KEY\""
exec rclone serve s3 "$@" s3
