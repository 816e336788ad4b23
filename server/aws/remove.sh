#!/bin/bash
# Removes all that docs/guides/aws.md makes: the machine with its database, and the bucket with all
# its files and their old versions. Nothing brings them back. It goes on if a part is missing.
#     AWS_DEFAULT_REGION=us-east-1 bash server/aws/remove.sh mlflow-example
NAME=${1:?}
tagged="Name=tag:Name,Values=$NAME"

for instance in $(aws ec2 describe-instances --filters "$tagged" \
  --query 'Reservations[].Instances[?State.Name!=`terminated`].InstanceId' --output text); do
  aws ec2 terminate-instances --instance-ids "$instance" >/dev/null
  aws ec2 wait instance-terminated --instance-ids "$instance"
done
for address in $(aws ec2 describe-addresses --filters "$tagged" \
  --query 'Addresses[].AllocationId' --output text); do
  aws ec2 release-address --allocation-id "$address"
done
aws ec2 delete-security-group --group-name "$NAME"

aws iam remove-role-from-instance-profile --instance-profile-name "$NAME" --role-name "$NAME"
aws iam delete-instance-profile --instance-profile-name "$NAME"
aws iam delete-role-policy --role-name "$NAME" --policy-name "$NAME"
aws iam delete-role --role-name "$NAME"

# Amazon deletes only an empty bucket, and a deleted file is still there as a version.
while
  versions=$(aws s3api list-object-versions --bucket "$NAME" --max-keys 300 --no-paginate \
    --query '{Objects: [Versions, DeleteMarkers][].{Key: Key, VersionId: VersionId}}' --output json)
  [[ $versions == *VersionId* ]]
do
  aws s3api delete-objects --bucket "$NAME" --delete "$versions" >/dev/null
done
aws s3api delete-bucket --bucket "$NAME"
