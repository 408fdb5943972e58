"""Messages without a Python package, for CycloneDDS: vision_msgs, Autoware's, and tf2_msgs.

Written from the .msg files of ros-perception/vision_msgs (4.1), autowarefoundation/autoware_msgs,
autowarefoundation/autoware_internal_msgs and ros2/geometry2, with the DDS type names of ROS.
"""

from dataclasses import dataclass, field

from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import array, float32, float64, int32, sequence, uint8, uint32


def ros(package, name):
    return f"{package}::msg::dds_::{name}_"


@dataclass
class Time(IdlStruct, typename=ros("builtin_interfaces", "Time")):
    sec: int32 = 0
    nanosec: uint32 = 0


@dataclass
class Header(IdlStruct, typename=ros("std_msgs", "Header")):
    stamp: Time = field(default_factory=Time)
    frame_id: str = ""


@dataclass
class Vector3(IdlStruct, typename=ros("geometry_msgs", "Vector3")):
    x: float64 = 0.0
    y: float64 = 0.0
    z: float64 = 0.0


@dataclass
class Point(IdlStruct, typename=ros("geometry_msgs", "Point")):
    x: float64 = 0.0
    y: float64 = 0.0
    z: float64 = 0.0


@dataclass
class Point32(IdlStruct, typename=ros("geometry_msgs", "Point32")):
    x: float32 = 0.0
    y: float32 = 0.0
    z: float32 = 0.0


@dataclass
class Polygon(IdlStruct, typename=ros("geometry_msgs", "Polygon")):
    points: sequence[Point32] = field(default_factory=list)


@dataclass
class Quaternion(IdlStruct, typename=ros("geometry_msgs", "Quaternion")):
    x: float64 = 0.0
    y: float64 = 0.0
    z: float64 = 0.0
    w: float64 = 1.0


@dataclass
class Pose(IdlStruct, typename=ros("geometry_msgs", "Pose")):
    position: Point = field(default_factory=Point)
    orientation: Quaternion = field(default_factory=Quaternion)


def zeros():
    return [0.0] * 36


@dataclass
class PoseWithCovariance(IdlStruct, typename=ros("geometry_msgs", "PoseWithCovariance")):
    pose: Pose = field(default_factory=Pose)
    covariance: array[float64, 36] = field(default_factory=zeros)


@dataclass
class Twist(IdlStruct, typename=ros("geometry_msgs", "Twist")):
    linear: Vector3 = field(default_factory=Vector3)
    angular: Vector3 = field(default_factory=Vector3)


@dataclass
class TwistWithCovariance(IdlStruct, typename=ros("geometry_msgs", "TwistWithCovariance")):
    twist: Twist = field(default_factory=Twist)
    covariance: array[float64, 36] = field(default_factory=zeros)


@dataclass
class Transform(IdlStruct, typename=ros("geometry_msgs", "Transform")):
    translation: Vector3 = field(default_factory=Vector3)
    rotation: Quaternion = field(default_factory=Quaternion)


@dataclass
class TransformStamped(IdlStruct, typename=ros("geometry_msgs", "TransformStamped")):
    header: Header = field(default_factory=Header)
    child_frame_id: str = ""
    transform: Transform = field(default_factory=Transform)


@dataclass
class TFMessage(IdlStruct, typename=ros("tf2_msgs", "TFMessage")):
    transforms: sequence[TransformStamped] = field(default_factory=list)


@dataclass
class ObjectHypothesis(IdlStruct, typename=ros("vision_msgs", "ObjectHypothesis")):
    class_id: str = ""
    score: float64 = 0.0


@dataclass
class ObjectHypothesisWithPose(IdlStruct, typename=ros("vision_msgs", "ObjectHypothesisWithPose")):
    hypothesis: ObjectHypothesis = field(default_factory=ObjectHypothesis)
    pose: PoseWithCovariance = field(default_factory=PoseWithCovariance)


@dataclass
class BoundingBox3D(IdlStruct, typename=ros("vision_msgs", "BoundingBox3D")):
    center: Pose = field(default_factory=Pose)
    size: Vector3 = field(default_factory=Vector3)


@dataclass
class Detection3D(IdlStruct, typename=ros("vision_msgs", "Detection3D")):
    header: Header = field(default_factory=Header)
    results: sequence[ObjectHypothesisWithPose] = field(default_factory=list)
    bbox: BoundingBox3D = field(default_factory=BoundingBox3D)
    id: str = ""


@dataclass
class Detection3DArray(IdlStruct, typename=ros("vision_msgs", "Detection3DArray")):
    header: Header = field(default_factory=Header)
    detections: sequence[Detection3D] = field(default_factory=list)


@dataclass
class ObjectClassification(IdlStruct, typename=ros("autoware_perception_msgs", "ObjectClassification")):
    label: uint8 = 0
    probability: float32 = 0.0


@dataclass
class DetectedObjectKinematics(
    IdlStruct, typename=ros("autoware_perception_msgs", "DetectedObjectKinematics")
):
    pose_with_covariance: PoseWithCovariance = field(default_factory=PoseWithCovariance)
    has_position_covariance: bool = False
    orientation_availability: uint8 = 0
    twist_with_covariance: TwistWithCovariance = field(default_factory=TwistWithCovariance)
    has_twist: bool = False
    has_twist_covariance: bool = False


@dataclass
class Shape(IdlStruct, typename=ros("autoware_perception_msgs", "Shape")):
    type: uint8 = 0
    footprint: Polygon = field(default_factory=Polygon)
    dimensions: Vector3 = field(default_factory=Vector3)


@dataclass
class DetectedObject(IdlStruct, typename=ros("autoware_perception_msgs", "DetectedObject")):
    existence_probability: float32 = 0.0
    classification: sequence[ObjectClassification] = field(default_factory=list)
    kinematics: DetectedObjectKinematics = field(default_factory=DetectedObjectKinematics)
    shape: Shape = field(default_factory=Shape)


@dataclass
class DetectedObjects(IdlStruct, typename=ros("autoware_perception_msgs", "DetectedObjects")):
    header: Header = field(default_factory=Header)
    objects: sequence[DetectedObject] = field(default_factory=list)


@dataclass
class Float64Stamped(IdlStruct, typename=ros("autoware_internal_debug_msgs", "Float64Stamped")):
    stamp: Time = field(default_factory=Time)
    data: float64 = 0.0
