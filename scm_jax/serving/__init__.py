"""A page and an HTTP API that draw from trained networks as one moves sliders.

`models` are what is served, `requests` what a client may ask for, `engine` the
threads that own the devices, `app` the web application, `server` its process.
"""
