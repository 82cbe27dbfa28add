_base_ = "../../../../_base_/datasets/cityscapes.py"
