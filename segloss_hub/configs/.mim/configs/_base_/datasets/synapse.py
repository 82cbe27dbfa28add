_base_ = "../../../../_base_/datasets/synapse.py"
