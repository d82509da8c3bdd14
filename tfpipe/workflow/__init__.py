"""`tfpipe run`: the stages from recordings to a served model, and what lets each be skipped."""
