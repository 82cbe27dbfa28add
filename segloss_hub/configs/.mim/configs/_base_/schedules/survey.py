_base_ = "../../../../_base_/schedules/survey.py"
