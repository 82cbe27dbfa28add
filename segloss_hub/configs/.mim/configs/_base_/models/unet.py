_base_ = "../../../../_base_/models/unet.py"
