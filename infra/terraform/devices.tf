# One IAM user a device, which may add frames under its own name and read published models, and nothing else.
#
# An access key works with nothing but boto3 on the device, needs no certificates of an own authority and no helper
# beside okko, and outlives weeks without a network. What makes a key on a memory card bearable is what it opens: whoever
# takes it can add frames for labelling under that device's name, read models that are signed anyway, and is out
# when the device is removed from var.devices. Keys are made outside of Terraform (aws iam create-access-key), so that
# no secret stands in its state.

data "aws_iam_policy_document" "device" {
  for_each = var.devices

  statement {
    sid       = "AddFramesUnderItsOwnName"
    actions   = ["s3:PutObject"]
    resources = ["${local.unlabelled_arn}${each.key}/*"]

    # Only conditional writes (If-None-Match: *): what has been uploaded cannot be overwritten.
    condition {
      test     = "Null"
      variable = "s3:if-none-match"
      values   = ["false"]
    }
  }

  statement {
    sid       = "ReadPublishedModels"
    actions   = ["s3:GetObject"]
    resources = ["${local.registry_arn}*"]
  }
}

resource "aws_iam_user" "device" {
  for_each = var.devices

  name = "${var.name}-device-${each.key}"
  path = "/${var.name}/devices/"

  # Keys are made outside of Terraform, and go with the device.
  force_destroy = true
}

resource "aws_iam_user_policy" "device" {
  for_each = var.devices

  name   = "upload-frames-and-read-models"
  user   = aws_iam_user.device[each.key].name
  policy = data.aws_iam_policy_document.device[each.key].json
}
