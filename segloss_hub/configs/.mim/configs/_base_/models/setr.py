_base_ = "../../../../_base_/models/setr.py"
