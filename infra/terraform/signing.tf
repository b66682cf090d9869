# The key that jobs sign models with, if wanted; it never leaves KMS. okko registry init --key ROLE=awskms:alias/NAME
# makes it known to devices.

resource "aws_kms_key" "signing" {
  count = var.signing_key ? 1 : 0

  description              = "Signs models that ${var.name} publishes"
  key_usage                = "SIGN_VERIFY"
  customer_master_key_spec = "ECC_NIST_P256"
  deletion_window_in_days  = 30
}

resource "aws_kms_alias" "signing" {
  count = var.signing_key ? 1 : 0

  name          = "alias/${var.name}-signing"
  target_key_id = aws_kms_key.signing[0].key_id
}
