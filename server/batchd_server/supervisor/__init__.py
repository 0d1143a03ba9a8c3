"""`batchd serve`'s main process: starts the others, restarts them, and takes them down again.

It must import neither torch nor any model code, so that nothing a model does can end it.
"""
