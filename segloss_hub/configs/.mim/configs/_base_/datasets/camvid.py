_base_ = "../../../../_base_/datasets/camvid.py"
