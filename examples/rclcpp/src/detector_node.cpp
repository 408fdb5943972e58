// An rclcpp node around centerpoint's C++ header: clouds in, vision_msgs/Detection3DArray out.
//
// For perception stacks built with colcon. `cp-ros2` is the complete node (diagnostics, markers, Autoware's
// messages and parameters) and needs no ROS installation. This example shows the few lines needed to run the
// detector in your own process or component container.
//
// NOT COMPILED IN THIS PROJECT'S CI, which has no ROS 2. Written for Humble and later.
#include <centerpoint/centerpoint.hpp>

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <rclcpp/rclcpp.hpp>
#include <rclcpp_components/register_node_macro.hpp>
#include <sensor_msgs/msg/point_cloud2.hpp>
#include <tf2_ros/buffer.h>
#include <tf2_ros/transform_listener.h>
#include <vision_msgs/msg/detection3_d_array.hpp>

namespace centerpoint_rclcpp {

using sensor_msgs::msg::PointCloud2;
using vision_msgs::msg::Detection3DArray;

class DetectorNode : public rclcpp::Node {
public:
    explicit DetectorNode(const rclcpp::NodeOptions &options)
        : Node("lidar_centerpoint", options),
          detector_(declare_parameter<std::string>("engine")),
          world_frame_(declare_parameter<std::string>("world_frame_id", "map")),
          tf_buffer_(get_clock()),
          tf_listener_(tf_buffer_) {
        detections_ = create_publisher<Detection3DArray>("~/output/detections", rclcpp::QoS{1});
        clouds_ = create_subscription<PointCloud2>(
            "~/input/pointcloud", rclcpp::SensorDataQoS{}.keep_last(1),
            [this](PointCloud2::ConstSharedPtr message) { on_cloud(*message); });
    }

private:
    void on_cloud(const PointCloud2 &message) {
        if (detections_->get_subscription_count() == 0) {
            return;
        }
        try {
            publish(message, detect(message));
        } catch (const centerpoint::Error &error) {
            RCLCPP_WARN_THROTTLE(get_logger(), *get_clock(), 5000, "skipping a cloud: %s", error.what());
        }
    }

    const std::vector<cp_box> &detect(const PointCloud2 &message) {
        const cp_cloud cloud = centerpoint::cloud_of(message, fields_);
        if (detector_.model().sweeps == 1) {
            return detector_.detect(cloud);
        }
        const std::int64_t stamp = rclcpp::Time(message.header.stamp).nanoseconds();
        const std::optional<cp_pose> pose = pose_of(message);
        const cp_pose *known = pose ? &*pose : nullptr;
        try {
            detector_.push_sweep(cloud, stamp, known);
        } catch (const centerpoint::Error &error) {
            if (error.status() != CP_ERROR_SWEEP) {
                throw;
            }
            // Time jumped back, or the fields changed.
            detector_.clear_sweeps();
            detector_.push_sweep(cloud, stamp, known);
        }
        return detector_.detect_sweeps();
    }

    // The pose of the cloud's frame in the fixed frame; without it, past clouds are not used.
    std::optional<cp_pose> pose_of(const PointCloud2 &message) {
        try {
            const auto transform =
                tf_buffer_.lookupTransform(world_frame_, message.header.frame_id, message.header.stamp).transform;
            const auto &t = transform.translation;
            const auto &q = transform.rotation;
            return cp_pose{t.x, t.y, t.z, q.x, q.y, q.z, q.w};
        } catch (const tf2::TransformException &error) {
            RCLCPP_WARN_THROTTLE(get_logger(), *get_clock(), 5000, "no pose for the cloud: %s", error.what());
            return std::nullopt;
        }
    }

    void publish(const PointCloud2 &cloud, const std::vector<cp_box> &boxes) {
        auto message = std::make_unique<Detection3DArray>();
        message->header = cloud.header;
        message->detections.resize(boxes.size());
        for (std::size_t i = 0; i < boxes.size(); ++i) {
            const cp_box &box = boxes[i];
            auto &detection = message->detections[i];
            detection.header = cloud.header;
            auto &center = detection.bbox.center;
            center.position.x = box.center[0];
            center.position.y = box.center[1];
            center.position.z = box.center[2];
            center.orientation.z = std::sin(box.yaw / 2.0);
            center.orientation.w = std::cos(box.yaw / 2.0);
            detection.bbox.size.x = box.size[0];
            detection.bbox.size.y = box.size[1];
            detection.bbox.size.z = box.size[2];
            detection.results.resize(1);
            detection.results[0].hypothesis.class_id = detector_.class_name(box.class_id);
            detection.results[0].hypothesis.score = box.score;
            detection.results[0].pose.pose = center;
        }
        detections_->publish(std::move(message));
    }

    centerpoint::Detector detector_;
    std::string world_frame_;
    tf2_ros::Buffer tf_buffer_;
    tf2_ros::TransformListener tf_listener_;
    std::vector<cp_field> fields_;
    rclcpp::Publisher<Detection3DArray>::SharedPtr detections_;
    rclcpp::Subscription<PointCloud2>::SharedPtr clouds_;
};

}  // namespace centerpoint_rclcpp

RCLCPP_COMPONENTS_REGISTER_NODE(centerpoint_rclcpp::DetectorNode)
