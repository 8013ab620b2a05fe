"""The telemetry streams that both sides know, each with its fields, units and resolutions.

A sample is one timestamped row of at most 22 scalars. Values are kept to a multiple of the field's resolution.
What a vehicle with too little room or too few bytes keeps follows from the fields' roles and the stream's class.
"""

from dataclasses import dataclass
from typing import Literal

MAX_FIELDS = 22

Role = Literal["plain", "confidence", "class", "numeric"]
"""What a field says of its sample's worth: how sure the model was (0 to 1), which class it saw, a measured or computed
quantity whose unusual values are news, or (plain) nothing."""

Keep = Literal["bulk", "health", "summary"]
"""What is given up before what: all bulk before any health, all health before any summary. Within bulk, by value."""

SPEEDS_PER_SAMPLE = 20
"""How many sensors' speeds one `road-speed` sample carries; a step of 207 sensors is 11 samples."""


@dataclass(frozen=True)
class Field:
    """One scalar: its unit is in its name, its resolution is the step it is rounded to."""

    name: str
    resolution: float
    role: Role = "plain"


@dataclass(frozen=True)
class Stream:
    """A named sequence of samples with the same fields."""

    name: str
    fields: tuple[Field, ...]
    keep: Keep = "bulk"

    def __post_init__(self) -> None:
        if not 1 <= len(self.fields) <= MAX_FIELDS:
            raise ValueError(f"stream {self.name}: {len(self.fields)} fields, 1 to {MAX_FIELDS} are allowed")


SIGN_DECISION = Stream(
    "sign-decision",
    (
        Field("item", 1),  # the source's own number of the frame
        Field("class_id", 1, "class"),
        Field("confidence", 0.001, "confidence"),
        Field("margin", 0.001, "confidence"),  # best minus second-best probability
        Field("latency_us", 1),
        Field("release", 1),
        Field("captured", 1),  # 1 where the frame itself is sent as a blob
        Field("dropped", 1),  # frames that the source dropped so far
    ),
)
ROAD_SPEED = Stream(
    "road-speed",
    (
        Field("step", 1),  # 5-minute steps since the start of the record
        Field("first_sensor", 1),
        # A hundredth of a mile per hour keeps a sample under 40 bytes; a thousandth took 50, all of it noise.
        *(Field(f"speed_{index}_mph", 0.01, "numeric") for index in range(SPEEDS_PER_SAMPLE)),
    ),
)
SPEED_DECISION = Stream(
    "speed-decision",
    (
        Field("step", 1),
        Field("forecast_15min_mph", 0.01, "numeric"),  # means over all sensors
        Field("forecast_30min_mph", 0.01, "numeric"),
        Field("forecast_45min_mph", 0.01, "numeric"),
        Field("forecast_60min_mph", 0.01, "numeric"),
        Field("observed_mph", 0.01, "numeric"),
        Field("latency_us", 1),
        Field("release", 1),
    ),
)
FLOW_FORECAST = Stream(
    "flow-forecast",
    (
        Field("step", 1),  # 5-minute steps since 1970-01-01 00:00 of the detector's own clock
        Field("flow_veh", 0.1, "numeric"),  # counted in this step
        Field("forecast_veh", 0.01, "numeric"),  # of the next step; NaN without a forecast, as are the next two
        Field("latency_us", 1),
        Field("release", 1),
        Field("dropped", 1),  # frames that the source dropped so far
    ),
)
COUNTED_LABELS = 8
"""How many labels a `detection` sample counts objects of."""

DETECTION = Stream(
    "detection",
    (
        Field("item", 1),  # the source's own number of the frame
        Field("objects", 1, "numeric"),
        Field("best_class_id", 1, "class"),  # NaN without objects, as are the two scores
        Field("best_score", 0.001, "confidence"),
        Field("least_score", 0.001, "confidence"),
        *(Field(f"count_{index}", 1, "numeric") for index in range(COUNTED_LABELS)),  # NaN where nothing is counted
        Field("latency_us", 1),
        Field("release", 1),
        Field("captured", 1),  # 1 where the frame itself is sent as a blob
        Field("dropped", 1),  # frames that the source dropped so far
    ),
)
CROSSING = Stream(
    "crossing",
    (
        Field("item", 1),  # the source's own number of the first frame beyond the line
        Field("line", 1),  # index in the slot's settings
        Field("direction", 1, "class"),  # 0 up, 1 down, 2 left, 3 right, as the picture shows it
        Field("track", 1),
        Field("class_id", 1, "class"),
        Field("confidence", 0.001, "confidence"),  # mean score of the track
        Field("release", 1),
    ),
)
FLOW = Stream(
    "flow",
    (
        Field("line", 1),  # index in the slot's settings
        Field("seconds", 0.1),  # that this sample is about; an empty road is told too
        Field("up_or_left", 1, "numeric"),  # crossings
        Field("down_or_right", 1, "numeric"),
        Field("frames", 1),
        Field("vehicles_mean", 0.01, "numeric"),  # in the picture at a time
        Field("latency_mean_us", 1),
        Field("release", 1),
        Field("dropped", 1),  # frames that the source dropped so far
    ),
)
DRIVE_STATE = Stream(
    "drive-state",
    (
        Field("item", 1),  # the source's own number of the frame
        Field("speed_kmh", 0.1, "numeric"),  # NaN where the speed is not known now, as is the forecast
        Field("speed_10s_kmh", 0.1, "numeric"),
        Field("state", 1, "class"),  # 0 free, 1 normal, 2 jam
        Field("confidence", 0.001, "confidence"),  # the state's probability
        Field("jam_probability", 0.001),
        Field("anomaly", 0.01, "numeric"),  # NaN where no signal can be compared, as is the signal
        Field("anomaly_signal", 1),  # index in drive_state/signals.py
        Field("odd_signals", 1, "numeric"),  # how many are odder than the slot's settings allow
        Field("known_signals", 1),  # how many are known in this frame
        Field("latency_us", 1),
        Field("release", 1),
        Field("dropped", 1),  # frames that the source dropped so far
    ),
)
POSITION = Stream(
    "position",
    (
        Field("item", 1),  # the source's own number of the frame
        Field("t_s", 0.001),  # source time
        Field("along_m", 0.01, "numeric"),  # travelled since the drive began
        Field("sigma_m", 0.01, "numeric"),  # of what was gathered since a reference was seen
        Field("speed_mps", 0.001, "numeric"),  # corrected
        Field("odometer_mps", 0.001),  # as it came; NaN where it is missing
        Field("reference_mps", 0.001),  # NaN in an outage
        Field("east_m", 0.01),  # of the first position; NaN before the heading is known, as are the next three
        Field("north_m", 0.01),
        Field("position_sigma_m", 0.01, "numeric"),
        Field("heading_rad", 0.0001),  # clockwise from north
        Field("outage_s", 0.1),  # since the reference was last seen; NaN where it never was
        Field("correction_mps", 0.0001),  # what the network says the odometer is too fast
        Field("scale", 0.0001),  # the odometer's scale error, as calibrated
        Field("gain", 0.001),  # trust in the network, as calibrated
        Field("confidence", 0.001, "confidence"),
        Field("missing", 1),  # how many signals of the motion are missing now
        Field("latency_us", 1),
        Field("release", 1),
        Field("dropped", 1),  # frames that the source dropped so far
    ),
)
HEALTH = Stream(
    "health",
    (
        Field("slot", 1),  # index in the profile
        Field("release", 1),
        Field("decisions", 1),  # since the last health sample
        Field("errors", 1),
        Field("latency_mean_us", 1),
        Field("latency_max_us", 1),
        Field("dropped", 1),
        Field("rss_mb", 0.1),
        Field("late", 1),  # decisions later than the deadline after the capture, so far
        Field("expired", 1),  # frames given up because they were older than that, so far
        Field("shed", 1),  # frames not delivered because the slot gave way to overload or heat, so far
        Field("share", 0.001),  # of the frames that the slot wants it gets this share
        Field("thermal_band", 1),  # 0 normal, 1 warm, 2 hot, 3 critical
        Field("temperature_c", 0.1),  # NaN where none is read
    ),
    keep="health",
)
SUMMARY = Stream(
    "summary",
    (
        Field("slot", 1),  # index in the profile
        Field("release", 1),
        Field("seconds", 0.1),  # that this sample is about; a minute, less where the agent stops
        Field("decisions", 1),
        Field("errors", 1),
        Field("confidence_mean", 0.001),  # NaN where the task has none
        Field("confidence_min", 0.001),
        Field("latency_mean_us", 1),
        Field("latency_max_us", 1),
        Field("dropped", 1),  # frames that the slot was too slow for, in this time
        Field("shed", 1),  # frames not delivered because the slot gave way to overload or heat, in this time
    ),
    keep="summary",
)

STREAMS = {
    stream.name: stream
    for stream in (
        SIGN_DECISION,
        ROAD_SPEED,
        SPEED_DECISION,
        FLOW_FORECAST,
        DETECTION,
        CROSSING,
        FLOW,
        DRIVE_STATE,
        POSITION,
        HEALTH,
        SUMMARY,
    )
}
