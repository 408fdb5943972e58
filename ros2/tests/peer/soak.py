"""Runs the node at 10 Hz for minutes and checks that its memory does not grow and that it accounts for every cloud.

    unshare -n PYTHON ros2/tests/peer/soak.py --node target/release/cp-ros2 --minutes 60 --csv soak.csv

Needs the packages of ros2/tests/peer/requirements.txt. rclpy sends clouds reliably; CycloneDDS receives boxes. Prints
a line per minute. Exits with status 1 if memory grew by more than --growth MB from the second to the last quarter, or
if a cloud is not accounted for.
"""

import argparse
import statistics
import sys
import time

import peer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node", default="target/release/cp-ros2")
    parser.add_argument("--engine", default="engines/demo/int8.plan")
    parser.add_argument("--frames", default="calib/demo/frames")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--hz", type=float, default=10.0)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--growth", type=float, default=8.0, help="MB")
    parser.add_argument("--csv", default="soak.csv")
    parser.add_argument("--log", default="soak.log")
    args = parser.parse_args()

    peer.loopback()
    import definitions

    node = peer.NodeProcess(
        [args.node, "--engine", args.engine, "--intensity-scale", str(1 / 255), "--ros-args"]
        + ["-r", "~/input/pointcloud:=/points", "-p", "densification_params.num_past_frames:=0"]
        + ["-p", "qos_overrides./points.subscription.reliability:=reliable"]
        + ["-p", f"qos_overrides./points.subscription.depth:={peer.DEPTH}"],
        args.log,
    )
    messages = [peer.cloud(rows, "xyzirc") for rows in peer.frames(args.frames, 16, args.points)]
    other = peer.Peer()
    boxes = other.reader(definitions.Detection3DArray, peer.NODE + "/output/detections")
    times = other.reader(definitions.Float64Stamped, peer.NODE + "/debug/processing_time_ms")
    other.wait("the node's subscription", lambda: other.clouds.get_subscription_count() > 0)
    other.spin(time.monotonic() + 3.0)

    total = round(args.minutes * 60 * args.hz)
    begin = time.monotonic()
    sent = detections = found = 0
    processing, samples = [], []
    try:
        with open(args.csv, "w") as csv:
            csv.write("seconds,rss_kb,peak_kb,sent,detections,processing_ms\n")
            while sent < total and node.process.poll() is None:
                message = messages[sent % len(messages)]
                message.header.frame_id = "lidar"
                message.header.stamp = other.node.get_clock().now().to_msg()
                other.clouds.publish(message)
                sent += 1
                other.spin(begin + sent / args.hz)
                for array in boxes.take(N=100):
                    detections += 1
                    found += len(array.detections)
                processing += [sample.data for sample in times.take(N=100)]
                if sent % round(10 * args.hz) == 0:
                    rss, most = node.rss()
                    seconds = time.monotonic() - begin
                    samples.append((seconds, rss))
                    median = statistics.median(processing) if processing else 0.0
                    csv.write(f"{seconds:.0f},{rss},{most},{sent},{detections},{median:.2f}\n")
                    csv.flush()
                    if len(samples) % 6 == 0:
                        print(f"{seconds / 60:5.1f} min: RSS {rss} kB, {sent} sent, {detections} back", flush=True)
    except KeyboardInterrupt:
        print("interrupted: reporting the figures so far")
    other.spin(time.monotonic() + 2.0)
    detections += sum(1 for _ in boxes.take(N=1000))
    status, log = node.end()
    count = peer.counts(log)
    quarter = max(1, len(samples) // 4)
    early = statistics.median(rss for _, rss in samples[quarter : 2 * quarter] or samples)
    late = statistics.median(rss for _, rss in samples[-quarter:])
    growth = (late - early) / 1024
    ordered = sorted(processing)
    print(f"sent {sent}, {detections} detections back, {found} boxes; node: {count}, status {status}")
    if ordered:
        at = [ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.99, 0.999)]
        print(f"processing ms: median {at[0]:.2f}, 99 % {at[1]:.2f}, 99.9 % {at[2]:.2f}, max {ordered[-1]:.2f}")
    print(f"RSS: {early / 1024:.1f} MB in the second quarter, {late / 1024:.1f} MB in the last: {growth:+.2f} MB")
    accounted = count["processed"] + count["dropped"] + count["malformed"] + count["unwanted"] + count["lost"]
    good = status == 0 and accounted == sent and detections == count["processed"]
    good = good and growth <= args.growth
    print("soak: passed" if good else f"soak: FAILED ({accounted} of {sent} clouds accounted for)")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
