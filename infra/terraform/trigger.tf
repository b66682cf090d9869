# The trigger: a small function that is told of photos, waits until no more come, and then starts one job.
#
# It never sleeps. It keeps what it knows in one object of the photos bucket, written on condition, and sets itself
# alarms (one-shot schedules, named by their time, so that setting one twice is setting it once) that come back
# through the same queue.

locals {
  trigger_timeout_s = 60
}

resource "aws_cloudwatch_log_group" "trigger" {
  name              = "/aws/lambda/${var.name}-trigger"
  retention_in_days = 30
}

resource "aws_scheduler_schedule_group" "alarms" {
  name = "${var.name}-alarms"
}

data "aws_iam_policy_document" "trigger_assume" {
  statement {
    sid     = "TheFunctionAlone"
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "trigger" {
  name               = "${var.name}-trigger"
  assume_role_policy = data.aws_iam_policy_document.trigger_assume.json
}

data "aws_iam_policy_document" "trigger" {
  statement {
    sid       = "TakeMessages"
    actions   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]
    resources = [aws_sqs_queue.events.arn]
  }

  statement {
    sid       = "RememberWhatIsPending"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["${local.training_arn}trigger.json"]
  }

  statement {
    sid       = "SetAlarms"
    actions   = ["scheduler:CreateSchedule"]
    resources = ["arn:${local.partition}:scheduler:${var.region}:${local.account}:schedule/${aws_scheduler_schedule_group.alarms.name}/*"]
  }

  statement {
    sid       = "LetAlarmsRing"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.alarm.arn]

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["scheduler.amazonaws.com"]
    }
  }

  statement {
    sid     = "StartTheJob"
    actions = ["batch:SubmitJob"]
    resources = [
      aws_batch_job_queue.this.arn,
      aws_batch_job_definition.train.arn,
      aws_batch_job_definition.train.arn_prefix,
    ]
  }

  statement {
    sid       = "WriteTheLog"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.trigger.arn}:*"]
  }
}

resource "aws_iam_role_policy" "trigger" {
  name   = "messages-to-one-job"
  role   = aws_iam_role.trigger.id
  policy = data.aws_iam_policy_document.trigger.json
}

data "aws_iam_policy_document" "alarm_assume" {
  statement {
    sid     = "SchedulesOfThisGroupAlone"
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["scheduler.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceArn"
      values   = [aws_scheduler_schedule_group.alarms.arn]
    }
  }
}

resource "aws_iam_role" "alarm" {
  name               = "${var.name}-alarm"
  assume_role_policy = data.aws_iam_policy_document.alarm_assume.json
}

data "aws_iam_policy_document" "alarm" {
  statement {
    sid       = "RingInTheQueue"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.events.arn]
  }
}

resource "aws_iam_role_policy" "alarm" {
  name   = "ring"
  role   = aws_iam_role.alarm.id
  policy = data.aws_iam_policy_document.alarm.json
}

resource "aws_lambda_function" "trigger" {
  function_name    = "${var.name}-trigger"
  description      = "Told of photos; starts one training job when no more come"
  role             = aws_iam_role.trigger.arn
  runtime          = "python3.13"
  architectures    = ["arm64"]
  handler          = "okko_cloud.aws.trigger.handler"
  filename         = var.trigger_zip
  source_code_hash = filebase64sha256(var.trigger_zip)
  timeout          = local.trigger_timeout_s
  memory_size      = 256

  environment {
    variables = {
      OKKO_BUCKET             = aws_s3_bucket.this.id
      OKKO_QUEUE_ARN          = aws_sqs_queue.events.arn
      OKKO_ALARMS             = aws_scheduler_schedule_group.alarms.name
      OKKO_ALARM_ROLE         = aws_iam_role.alarm.arn
      OKKO_JOB_QUEUE          = aws_batch_job_queue.this.arn
      OKKO_JOB_DEFINITION     = aws_batch_job_definition.train.arn
      OKKO_QUIET_S            = var.quiet_s
      OKKO_AT_MOST_S          = var.at_most_s
      OKKO_MAX_JOBS_PER_MONTH = var.max_jobs_per_month
    }
  }

  depends_on = [aws_cloudwatch_log_group.trigger, aws_iam_role_policy.trigger]
}

resource "aws_lambda_event_source_mapping" "events" {
  event_source_arn                   = aws_sqs_queue.events.arn
  function_name                      = aws_lambda_function.trigger.arn
  batch_size                         = 1000
  maximum_batching_window_in_seconds = 5
  function_response_types            = ["ReportBatchItemFailures"]

  scaling_config {
    maximum_concurrency = 2
  }
}
