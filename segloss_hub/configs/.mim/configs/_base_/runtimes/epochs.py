_base_ = "../../../../_base_/runtimes/epochs.py"
