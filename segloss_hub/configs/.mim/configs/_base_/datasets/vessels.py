_base_ = "../../../../_base_/datasets/vessels.py"
