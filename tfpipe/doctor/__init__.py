"""`tfpipe doctor`: what is installed, what works, and how to fix what does not.

`probes` try out the libraries, `outcomes` runs them in a child process, `machine` reads what the machine has,
`problems` judges it all, and `report` puts it together.
"""
