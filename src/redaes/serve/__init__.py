"""The HTTP endpoint: scores, comparisons and rankings for programs, batched across requests.

A request's images are decoded in threads (`uploads`), wait in one queue with those of all other requests, go to the
scorer several at a time in a thread of its own (`batching`), and come back as JSON (`app`). Whatever is refused is
refused with a reason of one line (`problems`), and what goes on is counted (`metrics`). No URL or path that a client
names is ever opened.
"""
