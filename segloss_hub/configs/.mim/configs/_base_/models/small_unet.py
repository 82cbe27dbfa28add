_base_ = "../../../../_base_/models/small_unet.py"
