_base_ = "../../../../_base_/datasets/nuclei.py"
