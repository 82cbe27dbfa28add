_base_ = "../../../../_base_/schedules/iterations_8k.py"
