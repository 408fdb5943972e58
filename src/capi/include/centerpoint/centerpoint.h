/* centerpoint: lidar points in, 3D boxes out.
 *
 *     cp_detector *detector;
 *     if (cp_load("model.plan", NULL, &detector) != CP_OK) { puts(cp_last_error()); return 1; }
 *     cp_box boxes[500];
 *     size_t found;
 *     if (cp_detect(detector, &cloud, boxes, 500, &found) == CP_OK) { ... }
 *     cp_free(detector);
 *
 * Units: metres, radians, m/s; x forward, y left, z up; yaw 0 along +x, counter-clockwise seen from above. Times
 * are milliseconds, stamps nanoseconds.
 *
 * Errors. Every function that can fail returns a cp_status; cp_last_error() then describes what was found, what
 * was expected and what to do. A NULL is CP_ERROR_ARGUMENT unless the parameter may be NULL; any other invalid
 * pointer is undefined behaviour, as usual in C. No error ends the program, and the library never writes to
 * standard output or standard error, except that Rust reports an internal error (CP_ERROR_PANIC) on standard
 * error.
 *
 * Threads. The only global state is the text of cp_last_error(), which is per thread. Detectors are independent of
 * each other. A detector may move between threads and serves one call at a time: a concurrent call returns
 * CP_ERROR_BUSY. No other call may use a detector during cp_free().
 *
 * Memory. After the first frame, frames allocate nothing as long as the clouds' fields stay the same and no
 * cloud has more points than cp_model_info.capacity; with sweeps, once the model's number of sweeps has been
 * pushed and none is larger than those before. The same frame returns the same bytes, whatever the number of
 * threads.
 *
 * Compatibility. Structs whose first member is struct_size may get more members at their end. Initialize them
 * with CP_INIT(x), which clears the struct and records the size that the program was compiled with. 0 always
 * means "not set". An older program never sees members that it does not know; a newer program with an older
 * library gets CP_ERROR_ARGUMENT if it sets a member that the library does not know, and reads such members as
 * 0. All other structs and all numbers are fixed for a CP_ABI_VERSION, the number at the end of the library's
 * SONAME; functions and numbers may be added.
 */
#ifndef CENTERPOINT_CENTERPOINT_H
#define CENTERPOINT_CENTERPOINT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The header's versions; cp_version() and cp_abi_version() return the library's. */
#define CP_VERSION "0.1.0"
#define CP_ABI_VERSION 0

/* Clears a struct and sets its struct_size. */
#define CP_INIT(object) ((void)memset(&(object), 0, sizeof(object)), (void)((object).struct_size = sizeof(object)))

/* Result of a call. */
typedef enum cp_status {
    CP_OK = 0,
    /* An argument is NULL, a struct_size or a number is invalid. */
    CP_ERROR_ARGUMENT = 1,
    /* The plan cannot be opened or is invalid, or its engine failed. */
    CP_ERROR_PLAN = 2,
    /* The GPU or TensorRT is not available, or failed. */
    CP_ERROR_DEVICE = 3,
    /* The cloud's description is inconsistent, or lacks a column that the model needs. */
    CP_ERROR_CLOUD = 4,
    /* A sweep is older than the last one or has other columns, a pose is invalid, or there is no sweep. */
    CP_ERROR_SWEEP = 5,
    /* Not supported by this detector: points on a GPU for a detector on the CPU. */
    CP_ERROR_UNSUPPORTED = 6,
    /* Another thread is using the detector. */
    CP_ERROR_BUSY = 7,
    /* An internal error. The detector is no longer usable; free it and load another. */
    CP_ERROR_PANIC = 8
} cp_status;

/* Where a plan runs: cp_options.device. */
enum {
    /* The GPU for a TensorRT plan; for a plan in INT8 for the CPU a GPU, if there is one; else the CPU. */
    CP_DEVICE_AUTO = 0,
    CP_DEVICE_CPU = 1,
    /* The first NVIDIA GPU of CUDA_VISIBLE_DEVICES. */
    CP_DEVICE_CUDA = 2
};

/* Types of a field's values, for cp_field.datatype: the numbers of sensor_msgs/PointField. */
enum {
    CP_INT8 = 1,
    CP_UINT8 = 2,
    CP_INT16 = 3,
    CP_UINT16 = 4,
    CP_INT32 = 5,
    CP_UINT32 = 6,
    CP_FLOAT32 = 7,
    CP_FLOAT64 = 8
};

/* Where the ground is in the clouds, for cp_options.ground. */
enum {
    /* As the plan says. */
    CP_GROUND_PLAN = 0,
    /* Found in each frame; a frame that shows too little of it is an error (CP_ERROR_CLOUD). */
    CP_GROUND_AUTO = 1,
    /* At cp_options.ground_height. */
    CP_GROUND_HEIGHT = 2
};

/* Deadline status, for cp_deadline_info.level: the numbers of diagnostic_msgs/DiagnosticStatus. */
enum {
    /* The last frame was in time, or there has been none. */
    CP_LEVEL_OK = 0,
    /* The last frame was late. */
    CP_LEVEL_WARN = 1,
    /* All frames have been late for longer than the allowed delay. */
    CP_LEVEL_ERROR = 2
};

/* A loaded plan with its buffers. */
typedef struct cp_detector cp_detector;

/* Options of a detector. */
typedef struct cp_options {
    size_t struct_size;
    /* CPU threads, including the caller's; 0: one per core. */
    uint32_t threads;
    /* CP_DEVICE_... */
    int32_t device;
    /* Minimum score of every class, up to 1; 0: the plan's thresholds. */
    float score;
    /* Factor from the clouds' intensity to the model's scale, such as 1/255.0; 0: the plan's. */
    float intensity_scale;
    /* Time budget of a frame; 0: 200 ms. */
    double budget_ms;
    /* Longest unbroken run of late frames before the level becomes CP_LEVEL_ERROR; 0: 1000 ms. */
    double delay_ms;
    /* For TensorRT plans: the library or its folder; NULL: search the system. */
    const char *tensorrt;
    /* CP_GROUND_...: points are moved until the ground is where the model expects it. Boxes stay in the clouds'
     * frame. */
    int32_t ground;
    /* Height of the ground in the clouds (after the extrinsic) in m. */
    float ground_height;
    /* Pose of the sensor on the vehicle, if has_extrinsic is 1: x, y, z in m, then roll, pitch, yaw in degrees about the
     * vehicle's fixed axes x, y, z. */
    double extrinsic[6];
    /* Points in this box of the vehicle's frame are dropped: minimum x, y, z, then maximum x, y, z, in m. All 0: the
     * plan's. */
    float ignore_box[6];
    uint32_t has_extrinsic;
    /* Must be 0. */
    uint32_t reserved;
} cp_options;

/* A field of a point, like sensor_msgs/PointField. Recognized names are x, y, z; intensity, i or reflectivity;
 * ring, channel or laser; elongation; and, as a float, t or time_lag (age of the point's sweep in seconds). Other
 * fields, and those whose count is not 1, are ignored. */
typedef struct cp_field {
    const char *name;
    /* Byte offset in the point. */
    uint32_t offset;
    /* CP_FLOAT32 or another type. */
    uint32_t datatype;
    /* Number of values: 1. */
    uint32_t count;
} cp_field;

/* Points in host memory, laid out like sensor_msgs/PointCloud2: height rows of width points. Not used after the
 * call. */
typedef struct cp_cloud {
    size_t struct_size;
    const void *data;
    /* Bytes of data. */
    size_t data_size;
    uint32_t width;
    uint32_t height;
    /* Bytes from one point to the next. */
    uint32_t point_step;
    /* Bytes from one row to the next; ignored for a cloud of one row. */
    uint32_t row_step;
    const cp_field *fields;
    size_t field_count;
    /* Whether numbers are stored most significant byte first. */
    uint32_t is_bigendian;
    /* Must be 0. */
    uint32_t reserved;
} cp_cloud;

/* Pose of the vehicle in a fixed world: metres and a unit quaternion. */
typedef struct cp_pose {
    double x;
    double y;
    double z;
    double qx;
    double qy;
    double qz;
    double qw;
} cp_pose;

/* A detected object, in the coordinate frame of the cloud (or the newest sweep). */
typedef struct cp_box {
    /* Centre of gravity x, y, z in m. */
    float center[3];
    /* Length (along yaw), width, height in m. */
    float size[3];
    /* Heading, above -pi up to pi. */
    float yaw;
    /* Velocity over ground along x and y in m/s. */
    float velocity[2];
    /* 0 to 1. */
    float score;
    /* For cp_class_name(). */
    uint32_t class_id;
} cp_box;

/* Variances of a box's values, in the same order. Only some networks predict them. Position variances are in head cells
 * times metres, as Autoware has them. */
typedef struct cp_variances {
    float center[3];
    float size[3];
    float yaw;
    float velocity[2];
} cp_variances;

/* Properties of a detector's model. */
typedef struct cp_model_info {
    size_t struct_size;
    /* Number of classes, for cp_class_name(). */
    size_t class_count;
    /* Number of values per point that the model reads, for cp_column_name(). */
    size_t column_count;
    /* Sweeps that the model was trained on, including the newest. */
    size_t sweeps;
    /* Most points of a frame; further points are dropped and counted. */
    size_t capacity;
    /* Most boxes of a frame: a boxes array of this length is always long enough. */
    size_t max_boxes;
    /* CPU threads, including the caller's. */
    size_t threads;
    /* Detection range in m: minimum x, y, z, then maximum x, y, z. */
    double range[6];
} cp_model_info;

/* Counters and times of the last frame. Losing points that are out of range or not finite is ordinary; the other loss
 * counters mean that a limit of the model was reached. */
typedef struct cp_frame_info {
    size_t struct_size;
    /* Points of the cloud, or of all sweeps. */
    uint64_t points;
    /* Points with a NaN or infinity. */
    uint64_t dropped_non_finite;
    /* Points outside the model's range. */
    uint64_t dropped_out_of_range;
    /* Points beyond the limit of points per pillar. */
    uint64_t dropped_pillar_points;
    /* Points of pillars beyond the limit of pillars. */
    uint64_t dropped_pillars;
    /* Candidate boxes beyond their limit. */
    uint64_t dropped_candidates;
    /* Candidate boxes that are not finite: weights or input are broken. */
    uint64_t dropped_non_finite_candidates;
    /* Points beyond cp_model_info.capacity. */
    uint64_t dropped_sweep_points;
    /* Time of each stage in ms; read_ms: reading the points from the cloud. */
    double read_ms;
    double pillars_ms;
    double features_ms;
    double scatter_ms;
    double engine_ms;
    double decode_ms;
    double nms_ms;
    /* The whole frame, including all of the above. */
    double total_ms;
    /* Sweeps used; 1 without cp_detect_sweeps(). */
    uint32_t sweeps;
    /* Past sweeps left out because they or the newest sweep have no pose. */
    uint32_t sweeps_without_pose;
    /* 1 if the model was trained with intensity but the cloud has none; 0 was used instead. */
    uint32_t missing_intensity;
    /* Must be 0. */
    uint32_t reserved;
    /* With CP_GROUND_AUTO: the ground's height in m in the vehicle's frame, the cells of 1 m that show it (0: not looked
     * for), and how far their heights scatter, in m. */
    float ground_height;
    float ground_spread;
    uint32_t ground_cells;
    /* Must be 0. */
    uint32_t reserved2;
} cp_frame_info;

/* Whether frames meet cp_options.budget_ms. A frame's time here is total_ms without read_ms; failed frames are not
 * counted. */
typedef struct cp_deadline_info {
    size_t struct_size;
    double budget_ms;
    /* Longest allowed duration of an unbroken run of late frames. */
    double budget_delay_ms;
    /* Frames so far; frames over budget; those since the last frame in time; the longest run of them. */
    uint64_t frames;
    uint64_t misses;
    uint64_t consecutive;
    uint64_t longest;
    /* Time of the last frame in ms; 0 before the first. */
    double last_ms;
    /* How long frames have been late by now. */
    double delay_ms;
    /* CP_LEVEL_... */
    int32_t level;
    /* Must be 0. */
    uint32_t reserved;
} cp_deadline_info;

/* The library's version, such as "0.1.0". */
const char *cp_version(void);

/* The library's ABI; must equal the CP_ABI_VERSION that the program was compiled with. */
uint32_t cp_abi_version(void);

/* The error of this thread's last call that returns a status (or a name); "" if it succeeded. One line of UTF-8.
 * Valid until the next call on this thread. */
const char *cp_last_error(void);

/* Opens a plan and allocates everything its frames need. options may be NULL for the defaults. *detector is NULL after
 * an error. */
cp_status cp_load(const char *path, const cp_options *options, cp_detector **detector);

/* Frees a detector; does nothing for NULL. */
void cp_free(cp_detector *detector);

/* Properties of the detector's model. */
cp_status cp_model(const cp_detector *detector, cp_model_info *info);

/* The name of a class; NULL beyond the last one. Valid as long as the detector. */
const char *cp_class_name(const cp_detector *detector, size_t index);

/* The name of column `index` of the model's points: "x", "intensity", "t", ...; NULL beyond the last one. Valid as long
 * as the detector. */
const char *cp_column_name(const cp_detector *detector, size_t index);

/* Detects objects in one cloud. Writes the best `capacity` boxes, best first, and the total number to *found. If *found
 * is larger than capacity, cp_last_boxes() returns all of them without computing them again. boxes may be NULL if
 * capacity is 0. *found is 0 after an error. */
cp_status cp_detect(cp_detector *detector, const cp_cloud *cloud, cp_box *boxes, size_t capacity, size_t *found);

/* Like cp_detect(), for points in device memory, such as from cudaMalloc(): `count` rows of packed floats in
 * the model's columns (cp_column_name()), intensities in the clouds' scale, aligned to 4 bytes. Writes to them
 * must have finished (cudaStreamSynchronize()), and nothing may write them until this returns.
 * CP_ERROR_UNSUPPORTED if the detector runs on the CPU. */
cp_status cp_detect_device(cp_detector *detector, const void *points, size_t count, cp_box *boxes, size_t capacity,
                           size_t *found);

/* Adds the newest sweep, and drops the oldest if there are more than cp_model_info.sweeps. `stamp_ns` counts
 * from any epoch and must not go backwards. pose is the vehicle's pose at that time, or NULL if unknown: past
 * sweeps are then left out. An error changes nothing. */
cp_status cp_push_sweep(cp_detector *detector, const cp_cloud *cloud, int64_t stamp_ns, const cp_pose *pose);

/* Removes all sweeps, for example after a jump in time. */
cp_status cp_clear_sweeps(cp_detector *detector);

/* Like cp_detect(), for the pushed sweeps: past points are moved into the newest sweep's vehicle frame. */
cp_status cp_detect_sweeps(cp_detector *detector, cp_box *boxes, size_t capacity, size_t *found);

/* The boxes of the last frame; none if it failed. */
cp_status cp_last_boxes(const cp_detector *detector, cp_box *boxes, size_t capacity, size_t *found);

/* The variances of cp_last_boxes(), one for each box; none if the network predicts none. */
cp_status cp_last_variances(const cp_detector *detector, cp_variances *variances, size_t capacity, size_t *found);

/* Counters and times of the last frame; all 0 if it failed. */
cp_status cp_last_frame(const cp_detector *detector, cp_frame_info *info);

/* What is probably wrong with a cloud: columns, scale of the intensity, range, height of the ground, missing sweeps. Writes
 * at most `capacity` bytes of UTF-8 to text, one line for each problem and a NUL at the end, and the length of the whole
 * text without the NUL to *length: 0 if nothing is wrong. Costs some milliseconds: for the first cloud. */
cp_status cp_check(cp_detector *detector, const cp_cloud *cloud, char *text, size_t capacity, size_t *length);

/* The deadline counters and status by now. */
cp_status cp_deadline(const cp_detector *detector, cp_deadline_info *info);

#ifdef __cplusplus
}
#endif

#endif
