_base_ = "../../../../_base_/schedules/iterations_160.py"
