"""Reads an MCAP file of points and boxes with Foxglove's own schemas and the mcap library.

    read_mcap.py FILE.mcap

Checks every checksum, and compares the schemas in the file with the published ones, message by message. Prints a
JSON line for each frame: stamp, frame_id, columns, number of points, SHA-256 of the points as rows, and the boxes as
in cp-infer's JSON.
"""

import hashlib
import json
import math
import sys

from foxglove_schemas_protobuf.PointCloud_pb2 import PointCloud
from foxglove_schemas_protobuf.SceneEntityDeletion_pb2 import SceneEntityDeletion
from foxglove_schemas_protobuf.SceneUpdate_pb2 import SceneUpdate
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet
from mcap.reader import make_reader

PUBLISHED = {"foxglove.PointCloud": PointCloud, "foxglove.SceneUpdate": SceneUpdate}


def shape(message):
    """The parts of a message definition that affect decoding."""
    fields = [(f.name, f.number, f.type, f.label, f.type_name) for f in message.field]
    enums = [(e.name, [(v.name, v.number) for v in e.value]) for e in message.enum_type]
    return sorted(fields, key=lambda field: field[1]), enums


def published(descriptor, found):
    """The shapes of a message and of all messages it contains, by name."""
    if descriptor.full_name not in found:
        proto = DescriptorProto()
        descriptor.CopyToProto(proto)
        found[descriptor.full_name] = shape(proto)
        for field in descriptor.fields:
            if field.message_type:
                published(field.message_type, found)
    return found


def check(schema):
    """Compares a schema record with the published schema."""
    assert schema.encoding == "protobuf", schema.encoding
    files = FileDescriptorSet.FromString(schema.data).file
    written = {f"{f.package}.{m.name}": shape(m) for f in files for m in f.message_type}
    assert {f.syntax for f in files} == {"proto3"}
    for name, expected in published(PUBLISHED[schema.name].DESCRIPTOR, {}).items():
        assert written[name] == expected, (name, written[name], expected)


def nanoseconds(time):
    return time.seconds * 10**9 + time.nanos


def yaw(rotation):
    assert rotation.x == rotation.y == 0
    return 2 * math.atan2(rotation.z, rotation.w)


def vector(v):
    return [v.x, v.y, v.z]


def box(entity, stamp, frame_id):
    """The box drawn by an entity."""
    assert nanoseconds(entity.timestamp) == stamp and entity.frame_id == frame_id
    metadata = {pair.key: pair.value for pair in entity.metadata}
    [cube], [text] = entity.cubes, entity.texts
    assert text.text == f"{metadata['class']} {float(metadata['score']):.2f}", text.text
    assert text.pose.position.z > cube.pose.position.z + cube.size.z / 2
    heading, *velocity = entity.arrows
    assert math.isclose(yaw(heading.pose.orientation), yaw(cube.pose.orientation))
    assert vector(heading.pose.position) == vector(cube.pose.position)
    # The arrowhead starts at the front of the box.
    assert math.isclose(heading.shaft_length, cube.size.x / 2)
    moving = None
    for arrow in velocity:
        length = arrow.shaft_length + arrow.head_length
        angle = yaw(arrow.pose.orientation)
        moving = [length * math.cos(angle), length * math.sin(angle)]
    return {
        "class": metadata["class"],
        "score": float(metadata["score"]),
        "center": vector(cube.pose.position),
        "size": vector(cube.size),
        "yaw": yaw(cube.pose.orientation),
        "velocity": moving,
    }


def main():
    with open(sys.argv[1], "rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        for schema in summary.schemas.values():
            check(schema)
        cloud = None
        seen = 0
        for schema, channel, message in reader.iter_messages():
            decoded = PUBLISHED[schema.name].FromString(message.data)
            assert message.log_time == message.publish_time
            seen += 1
            if channel.topic == "/points":
                cloud = decoded
                assert nanoseconds(cloud.timestamp) == message.log_time
                continue
            assert channel.topic == "/boxes"
            [deletion] = decoded.deletions
            assert deletion.type == SceneEntityDeletion.ALL
            assert nanoseconds(deletion.timestamp) == message.log_time
            entities = decoded.entities
            assert len({entity.id for entity in entities}) == len(entities)
            stamp, frame_id = message.log_time, cloud.frame_id
            assert all(field.type == 7 for field in cloud.fields)
            print(json.dumps({
                "stamp": stamp,
                "frame_id": frame_id,
                "columns": ",".join(field.name for field in cloud.fields),
                "offsets": [field.offset for field in cloud.fields],
                "points": len(cloud.data) // cloud.point_stride,
                "sha256": hashlib.sha256(cloud.data).hexdigest(),
                "boxes": [box(entity, stamp, frame_id) for entity in entities],
            }))
        assert seen == summary.statistics.message_count, (seen, summary.statistics)


main()
