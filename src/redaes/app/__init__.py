"""The web page: photographs in, scores, comparisons and advice out, on this computer.

    uploads   what came in, opened or refused in one line
    judging   the questions put to the scorer, as plain functions of uploads
    browsing  a dataset, page by page
    pages     answers as HTML: escaped, pictures inside
    blocks    the Gradio page: which button calls which of these
    server    serves it on 127.0.0.1, and nothing but it

Gradio is imported by `blocks` and `server` alone.
"""
