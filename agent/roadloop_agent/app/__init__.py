"""The one place that builds the objects of a vehicle and connects them; watch.py does it for the supervisor.

Each process has its module here, which imports only what that process needs: drive knows nothing of MQTT or TUF, link
nothing of runtimes or OpenCV. So nobody imports them all, and this file imports none.
"""
