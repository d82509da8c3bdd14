"""`tfpipe doctor`: what is installed, what works, and how to mend what does not."""
