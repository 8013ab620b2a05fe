"""The 43 German traffic signs of GTSRB, by class id."""

SIGN_LABELS = (
    "speed limit 20",
    "speed limit 30",
    "speed limit 50",
    "speed limit 60",
    "speed limit 70",
    "speed limit 80",
    "end of speed limit 80",
    "speed limit 100",
    "speed limit 120",
    "no overtaking",
    "no overtaking by trucks",
    "right of way at next crossing",
    "priority road",
    "give way",
    "stop",
    "no vehicles",
    "no trucks",
    "no entry",
    "danger",
    "bend left",
    "bend right",
    "double bend",
    "uneven road",
    "slippery road",
    "road narrows on the right",
    "road works",
    "traffic signals",
    "pedestrians",
    "children",
    "bicycles",
    "snow or ice",
    "wild animals",
    "end of all limits",
    "turn right ahead",
    "turn left ahead",
    "ahead only",
    "ahead or right",
    "ahead or left",
    "keep right",
    "keep left",
    "roundabout",
    "end of no overtaking",
    "end of no overtaking by trucks",
)

MIRROR_SELF = (11, 12, 13, 15, 17, 18, 22, 26, 30, 35)
"""Classes that a mirror maps to themselves."""

MIRROR_PAIRS = ((19, 20), (33, 34), (36, 37), (38, 39))
"""Classes that a mirror maps to each other."""
