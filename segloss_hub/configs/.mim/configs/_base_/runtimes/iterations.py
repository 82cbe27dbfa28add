_base_ = "../../../../_base_/runtimes/iterations.py"
