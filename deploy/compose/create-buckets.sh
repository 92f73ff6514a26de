#!/bin/sh
# Creates the buckets, versioned, unless they exist.
set -eu

create() {
    endpoint=$1 bucket=$2
    if ! aws --endpoint-url "$endpoint" s3api head-bucket --bucket "$bucket" 2>/dev/null; then
        aws --endpoint-url "$endpoint" s3api create-bucket --bucket "$bucket"
    fi
    aws --endpoint-url "$endpoint" s3api put-bucket-versioning --bucket "$bucket" \
        --versioning-configuration Status=Enabled
}

create http://s3-a:8333 recovery-a
create http://s3-b:8333 recovery-b
create http://s3-witness:8333 witness
