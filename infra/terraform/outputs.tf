output "place" {
  description = "The bucket, as okko's commands take it."
  value       = "s3://${aws_s3_bucket.this.id}"
}

output "photos" {
  description = "Where labelled photos go: one folder a label."
  value       = "s3://${aws_s3_bucket.this.id}/${trimsuffix(local.photos, "/")}"
}

output "outbox" {
  description = "What devices set as outbox.bucket."
  value       = "s3://${aws_s3_bucket.this.id}/${trimsuffix(local.unlabelled, "/")}"
}

output "registry" {
  description = "Where models are published."
  value       = "s3://${aws_s3_bucket.this.id}/${trimsuffix(local.registry, "/")}"
}

output "image" {
  description = "The image that jobs run."
  value       = local.image
}

output "repository" {
  description = "Where to push the image."
  value       = aws_ecr_repository.train.repository_url
}

output "signing_key" {
  description = "What okko registry init takes as --key ROLE=...; empty without var.signing_key."
  value       = var.signing_key ? "awskms:${aws_kms_alias.signing[0].name}" : ""
}

output "job_queue" {
  description = "Where training jobs wait."
  value       = aws_batch_job_queue.this.name
}

output "job_definition" {
  description = "What a training job is."
  value       = aws_batch_job_definition.train.name
}

output "job_log" {
  description = "Where training jobs write."
  value       = aws_cloudwatch_log_group.job.name
}

output "dead_letters" {
  description = "Where messages go that could not be handled."
  value       = aws_sqs_queue.dead.url
}

output "device_users" {
  description = "The IAM user of each device."
  value       = { for device, user in aws_iam_user.device : device => user.name }
}
