# One bucket: photos come in, models go out, and jobs keep their notes between.

locals {
  # What lies where in it, as okko_cloud.place has it.
  photos     = "photos/"
  unlabelled = "photos/unlabelled/"
  training   = "training/"
  registry   = "registry/"

  photos_arn     = "${aws_s3_bucket.this.arn}/${local.photos}"
  unlabelled_arn = "${aws_s3_bucket.this.arn}/${local.unlabelled}"
  training_arn   = "${aws_s3_bucket.this.arn}/${local.training}"
  registry_arn   = "${aws_s3_bucket.this.arn}/${local.registry}"
}

resource "aws_s3_bucket" "this" {
  bucket        = "${var.name}-${local.account}"
  force_destroy = var.delete_photos_and_models
}

resource "aws_s3_bucket_versioning" "this" {
  bucket = aws_s3_bucket.this.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    # Amazon's own keys: no cost, and a device needs no permission beside the one to put.
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  bucket                  = aws_s3_bucket.this.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

data "aws_iam_policy_document" "tls_only" {
  statement {
    sid       = "NothingWithoutTls"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.this.arn, "${aws_s3_bucket.this.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "this" {
  bucket = aws_s3_bucket.this.id
  policy = data.aws_iam_policy_document.tls_only.json

  depends_on = [aws_s3_bucket_public_access_block.this]
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    id     = "unfinished-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }

  rule {
    id     = "old-versions"
    status = "Enabled"

    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.old_versions_days
    }

    expiration {
      expired_object_delete_marker = true
    }
  }

  # What devices sent and nobody labelled; a label moves a frame into its folder, where it stays.
  rule {
    id     = "unlabelled"
    status = "Enabled"

    filter {
      prefix = local.unlabelled
    }

    expiration {
      days = var.unlabelled_days
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}
