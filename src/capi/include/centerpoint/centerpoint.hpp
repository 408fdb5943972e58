// centerpoint for C++17: the C interface with ownership, exceptions and vectors. Header only; see centerpoint.h
// for the documentation.
//
//     centerpoint::Detector detector("model.plan");
//     for (const cp_box &box : detector.detect(cloud)) { ... detector.class_name(box.class_id) ... }
//
// Frames allocate nothing here: the vector for boxes has room for the most boxes of a frame.
#ifndef CENTERPOINT_CENTERPOINT_HPP
#define CENTERPOINT_CENTERPOINT_HPP

#include <centerpoint/centerpoint.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace centerpoint {

// A failed call; what() is the text of cp_last_error().
class Error : public std::runtime_error {
public:
    Error(cp_status status, const char *text) : std::runtime_error(text), status_(status) {}
    cp_status status() const noexcept { return status_; }

private:
    cp_status status_;
};

// Throws the error of a failed call.
inline void check(cp_status status) {
    if (status != CP_OK) {
        throw Error(status, cp_last_error());
    }
}

// A struct with its struct_size set and everything else 0: make<cp_options>().
template <class Struct>
Struct make() noexcept {
    Struct object;
    CP_INIT(object);
    return object;
}

// The points of a sensor_msgs::msg::PointCloud2 (or any type with its members), without a copy. The message and
// `fields`, whose memory is reused, must live until the call with this cloud returns.
template <class PointCloud2>
cp_cloud cloud_of(const PointCloud2 &message, std::vector<cp_field> &fields) {
    fields.clear();
    for (const auto &field : message.fields) {
        fields.push_back(cp_field{field.name.c_str(), field.offset, field.datatype, field.count});
    }
    auto cloud = make<cp_cloud>();
    cloud.data = message.data.data();
    cloud.data_size = message.data.size();
    cloud.width = message.width;
    cloud.height = message.height;
    cloud.point_step = message.point_step;
    cloud.row_step = message.row_step;
    cloud.fields = fields.data();
    cloud.field_count = fields.size();
    cloud.is_bigendian = message.is_bigendian ? 1 : 0;
    return cloud;
}

// A loaded plan. Movable but not copyable; a moved-from detector can only be assigned to or destroyed.
class Detector {
public:
    // Opens a plan; throws Error.
    explicit Detector(const std::string &plan, const cp_options &options = make<cp_options>())
        : model_(make<cp_model_info>()) {
        if (cp_abi_version() != CP_ABI_VERSION) {
            throw Error(CP_ERROR_ARGUMENT, "libcenterpoint has a different ABI from the header that this program was compiled with");
        }
        cp_detector *detector = nullptr;
        check(cp_load(plan.c_str(), &options, &detector));
        detector_.reset(detector);
        check(cp_model(detector, &model_));
        boxes_.reserve(model_.max_boxes);
    }

    // The boxes of a frame, best first; valid until the next detection.
    const std::vector<cp_box> &detect(const cp_cloud &cloud) {
        return frame([&](cp_box *boxes, std::size_t capacity, std::size_t *found) {
            return cp_detect(get(), &cloud, boxes, capacity, found);
        });
    }

    // Like detect(), for packed floats in device memory.
    const std::vector<cp_box> &detect_device(const void *points, std::size_t count) {
        return frame([&](cp_box *boxes, std::size_t capacity, std::size_t *found) {
            return cp_detect_device(get(), points, count, boxes, capacity, found);
        });
    }

    // Adds the newest sweep; pose is nullptr if unknown.
    void push_sweep(const cp_cloud &cloud, std::int64_t stamp_ns, const cp_pose *pose) {
        check(cp_push_sweep(get(), &cloud, stamp_ns, pose));
    }

    void clear_sweeps() { check(cp_clear_sweeps(get())); }

    // Like detect(), for the pushed sweeps.
    const std::vector<cp_box> &detect_sweeps() {
        return frame([&](cp_box *boxes, std::size_t capacity, std::size_t *found) {
            return cp_detect_sweeps(get(), boxes, capacity, found);
        });
    }

    // The boxes of the last detection; none if it threw.
    const std::vector<cp_box> &boxes() const noexcept { return boxes_; }

    // The variances of boxes(), one for each; empty if the network predicts none.
    std::vector<cp_variances> variances() const {
        std::vector<cp_variances> variances(boxes_.size());
        std::size_t found = 0;
        check(cp_last_variances(get(), variances.data(), variances.size(), &found));
        variances.resize(std::min(found, variances.size()));
        return variances;
    }

    const cp_model_info &model() const noexcept { return model_; }

    cp_frame_info last_frame() const {
        auto info = make<cp_frame_info>();
        check(cp_last_frame(get(), &info));
        return info;
    }

    // What is probably wrong with a cloud, a line for each problem; empty if nothing is.
    std::string check_cloud(const cp_cloud &cloud) {
        std::size_t length = 0;
        check(cp_check(get(), &cloud, nullptr, 0, &length));
        std::string text(length + 1, '\0');
        check(cp_check(get(), &cloud, &text[0], text.size(), &length));
        text.resize(length);
        return text;
    }

    cp_deadline_info deadline() const {
        auto info = make<cp_deadline_info>();
        check(cp_deadline(get(), &info));
        return info;
    }

    // Names live as long as the detector; throws Error beyond the last one.
    const char *class_name(std::size_t index) const { return name(cp_class_name(get(), index)); }
    const char *column_name(std::size_t index) const { return name(cp_column_name(get(), index)); }

    // For calls to the C interface; does not transfer ownership.
    cp_detector *get() const noexcept { return detector_.get(); }

private:
    struct Free {
        void operator()(cp_detector *detector) const noexcept { cp_free(detector); }
    };

    template <class Call>
    const std::vector<cp_box> &frame(Call &&call) {
        boxes_.resize(model_.max_boxes);
        std::size_t found = 0;
        const cp_status status = std::forward<Call>(call)(boxes_.data(), boxes_.size(), &found);
        boxes_.resize(found);
        check(status);
        return boxes_;
    }

    static const char *name(const char *name) {
        if (name == nullptr) {
            throw Error(CP_ERROR_ARGUMENT, cp_last_error());
        }
        return name;
    }

    std::unique_ptr<cp_detector, Free> detector_;
    cp_model_info model_;
    std::vector<cp_box> boxes_;
};

}  // namespace centerpoint

#endif
