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
 * Errors. Every function that can fail returns a cp_status; cp_last_error() then says in words what was found,
 * what was expected and what to do. A NULL is CP_ERROR_ARGUMENT unless its parameter says that it may be NULL; a
 * pointer to anything but the object named is the caller's fault, as everywhere in C. No error ends the program,
 * and the library never writes to standard output or error, except that Rust reports an internal error
 * (CP_ERROR_PANIC) on standard error.
 *
 * Threads. There is no global state but the text of cp_last_error(), which each thread has for itself. Detectors
 * are independent of each other. One detector may move between threads and serves one call at a time: a
 * second call at the same time is CP_ERROR_BUSY. cp_free() wants that no other call uses the detector.
 *
 * Memory. A frame allocates nothing after the first, as long as the clouds' fields stay the same and no cloud
 * has more points than cp_model_info.capacity; with sweeps, once as many were pushed as the model takes and
 * none is larger than those before. The same frame gives the same bytes, whatever the number of threads.
 *
 * Growing. Structs whose first member is struct_size may get more members at their end; begin with CP_INIT(x),
 * which clears the struct and notes the size that the program was compiled with. 0 always means "as if the
 * member were not there". An older program never sees members that it does not know; a newer program on an older
 * library gets CP_ERROR_ARGUMENT if it uses one that the library does not know, and 0 where it reads one. All
 * other structs and all numbers are fixed for a CP_ABI_VERSION, which is the number at the end of the library's
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

/* Of this header; cp_version() and cp_abi_version() are the library's. */
#define CP_VERSION "0.1.0"
#define CP_ABI_VERSION 0

/* Clears a struct and sets its struct_size. */
#define CP_INIT(object) ((void)memset(&(object), 0, sizeof(object)), (void)((object).struct_size = sizeof(object)))

/* What became of a call. */
typedef enum cp_status {
    CP_OK = 0,
    /* NULL, a struct_size or a number that cannot be. */
    CP_ERROR_ARGUMENT = 1,
    /* The plan cannot be opened or is broken, or its engine failed. */
    CP_ERROR_PLAN = 2,
    /* The GPU or TensorRT is not there, or failed. */
    CP_ERROR_DEVICE = 3,
    /* The cloud's description contradicts itself, or lacks a column that the model needs. */
    CP_ERROR_CLOUD = 4,
    /* A sweep is older than the last one or has other columns, a pose is none, or there is no sweep. */
    CP_ERROR_SWEEP = 5,
    /* This detector cannot do that: points on a GPU for a detector on the CPU. */
    CP_ERROR_UNSUPPORTED = 6,
    /* Another thread is using the detector. */
    CP_ERROR_BUSY = 7,
    /* An internal error. The detector it happened in does nothing any more; free it and load another. */
    CP_ERROR_PANIC = 8
} cp_status;

/* Where a plan runs: cp_options.device. */
enum {
    /* Where the plan was made for. */
    CP_DEVICE_AUTO = 0,
    CP_DEVICE_CPU = 1,
    /* The first NVIDIA GPU of CUDA_VISIBLE_DEVICES. */
    CP_DEVICE_CUDA = 2
};

/* Types of a field's values: cp_field.datatype, the numbers of sensor_msgs/PointField. */
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

/* How frames keep to their time: cp_deadline_info.level, the numbers of diagnostic_msgs/DiagnosticStatus. */
enum {
    /* The last frame was in time, or there was none. */
    CP_LEVEL_OK = 0,
    /* The last frame was late. */
    CP_LEVEL_WARN = 1,
    /* All frames were late for longer than the allowed delay. */
    CP_LEVEL_ERROR = 2
};

/* A loaded plan with its buffers. */
typedef struct cp_detector cp_detector;

/* How a plan is run. */
typedef struct cp_options {
    size_t struct_size;
    /* CPU threads, the caller's included; 0: one per core. */
    uint32_t threads;
    /* CP_DEVICE_... */
    int32_t device;
    /* Least score of every class, up to 1; 0: the plan's thresholds. */
    float score;
    /* Factor from the clouds' intensity to the model's scale, such as 1/255.0; 0: the plan's. */
    float intensity_scale;
    /* What a frame may take; 0: 200 ms. */
    double budget_ms;
    /* For how long frames may be late without a break before the level is CP_LEVEL_ERROR; 0: 1000 ms. */
    double delay_ms;
    /* For a plan of TensorRT: the library or its folder; NULL: where the system finds it. */
    const char *tensorrt;
} cp_options;

/* A field of a point, as sensor_msgs/PointField has it. The names that count are x, y, z; intensity, i or
 * reflectivity; ring, channel or laser; elongation; and, as a float, t or time_lag (age of the point's sweep in
 * seconds). Fields of other names, and those whose count is not 1, are read over. */
typedef struct cp_field {
    const char *name;
    /* Bytes from the begin of the point. */
    uint32_t offset;
    /* CP_FLOAT32 or another of these. */
    uint32_t datatype;
    /* Number of values: 1. */
    uint32_t count;
} cp_field;

/* Points in host memory as sensor_msgs/PointCloud2 has them: height rows of width points. Nothing of it is
 * kept after the call. */
typedef struct cp_cloud {
    size_t struct_size;
    const void *data;
    /* Bytes of data. */
    size_t data_size;
    uint32_t width;
    uint32_t height;
    /* Bytes from one point to the next. */
    uint32_t point_step;
    /* Bytes from one row to the next; means nothing in a cloud of one row. */
    uint32_t row_step;
    const cp_field *fields;
    size_t field_count;
    /* Whether the most significant byte of a number is the first. */
    uint32_t is_bigendian;
    /* 0. */
    uint32_t reserved;
} cp_cloud;

/* Where the vehicle is in a fixed world: metres and a unit quaternion. */
typedef struct cp_pose {
    double x;
    double y;
    double z;
    double qx;
    double qy;
    double qz;
    double qw;
} cp_pose;

/* One detected object, in the frame of the cloud (of the newest sweep). */
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

/* What a detector is made for. */
typedef struct cp_model_info {
    size_t struct_size;
    /* Number of classes, for cp_class_name(). */
    size_t class_count;
    /* Values of a point as the model reads it, for cp_column_name(). */
    size_t column_count;
    /* Sweeps that the model was trained on, the newest included. */
    size_t sweeps;
    /* Most points of a frame; what is beyond is dropped and counted. */
    size_t capacity;
    /* Most boxes that a frame can have: a boxes array of that length is always long enough. */
    size_t max_boxes;
    /* CPU threads, the caller's included. */
    size_t threads;
    /* Detection range in m: least x, y, z, then largest x, y, z. */
    double range[6];
} cp_model_info;

/* What is known of the last frame besides its boxes. Losing points out of range and points that are not finite is
 * ordinary; the other counters of losses mean that a cap of the model was reached. */
typedef struct cp_frame_info {
    size_t struct_size;
    /* Points of the cloud, or of all its sweeps. */
    uint64_t points;
    /* Points with a NaN or an infinity. */
    uint64_t dropped_non_finite;
    /* Points outside of the model's range. */
    uint64_t dropped_out_of_range;
    /* Points past the cap on points of a pillar. */
    uint64_t dropped_pillar_points;
    /* Points of pillars past the cap on pillars. */
    uint64_t dropped_pillars;
    /* Candidate boxes past the cap on them. */
    uint64_t dropped_candidates;
    /* Candidate boxes that are not finite: weights or input are broken. */
    uint64_t dropped_non_finite_candidates;
    /* Points past cp_model_info.capacity. */
    uint64_t dropped_sweep_points;
    /* Time of each stage in ms: taking the points out of the cloud, ... */
    double read_ms;
    double pillars_ms;
    double features_ms;
    double scatter_ms;
    double engine_ms;
    double decode_ms;
    double nms_ms;
    /* All of the above. */
    double total_ms;
    /* Sweeps that were used; 1 without cp_detect_sweeps(). */
    uint32_t sweeps;
    /* Past sweeps that were left out, for they or the newest one have no pose. */
    uint32_t sweeps_without_pose;
    /* 1 where the model was trained with intensity and the cloud has none: 0 stood in. */
    uint32_t missing_intensity;
    /* 0. */
    uint32_t reserved;
} cp_frame_info;

/* Whether frames kept to cp_options.budget_ms. A frame's time here is total_ms without read_ms; frames that failed
 * are not counted. */
typedef struct cp_deadline_info {
    size_t struct_size;
    double budget_ms;
    /* Longest time for which frames may be late without a break. */
    double budget_delay_ms;
    /* Frames so far, those over the budget, and of these how many since the last frame in time, and at most one
     * after the other. */
    uint64_t frames;
    uint64_t misses;
    uint64_t consecutive;
    uint64_t longest;
    /* Time of the last frame in ms; 0 before the first. */
    double last_ms;
    /* For how long frames have been late by now. */
    double delay_ms;
    /* CP_LEVEL_... */
    int32_t level;
    /* 0. */
    uint32_t reserved;
} cp_deadline_info;

/* The library's version, such as "0.1.0". */
const char *cp_version(void);

/* The library's ABI; a program needs the CP_ABI_VERSION it was compiled with. */
uint32_t cp_abi_version(void);

/* What the last call on this thread that gives a status (or a name) failed with; "" if it succeeded. UTF-8, one
 * line. Valid until the next call on this thread. */
const char *cp_last_error(void);

/* Opens a plan and allocates what its frames need. options may be NULL: all defaults. *detector is NULL after an
 * error. */
cp_status cp_load(const char *path, const cp_options *options, cp_detector **detector);

/* Frees a detector; NULL is nothing to free. */
void cp_free(cp_detector *detector);

/* What the detector is made for. */
cp_status cp_model(const cp_detector *detector, cp_model_info *info);

/* The name of a class; NULL past the last one. Valid as long as the detector. */
const char *cp_class_name(const cp_detector *detector, size_t index);

/* What value `index` of a point means to the model: "x", "intensity", "t", ...; NULL past the last one. Valid as
 * long as the detector. */
const char *cp_column_name(const cp_detector *detector, size_t index);

/* Finds the objects in one cloud. Writes the best `capacity` boxes, best first, and to *found how many there are;
 * where *found is larger than capacity, cp_last_boxes() gives the rest without computing them again. boxes may be
 * NULL if capacity is 0. *found is 0 after an error. */
cp_status cp_detect(cp_detector *detector, const cp_cloud *cloud, cp_box *boxes, size_t capacity, size_t *found);

/* As cp_detect(), for points in device memory, such as cudaMalloc() gives: `count` rows of packed floats in the
 * model's columns (cp_column_name()), intensities in the clouds' scale, aligned to 4 bytes. What writes them must
 * be done before (cudaStreamSynchronize()), and nothing may write them until this returns. CP_ERROR_UNSUPPORTED
 * where the detector runs on the CPU. */
cp_status cp_detect_device(cp_detector *detector, const void *points, size_t count, cp_box *boxes, size_t capacity,
                           size_t *found);

/* Adds the newest sweep; the oldest one goes when there are more than cp_model_info.sweeps. `stamp_ns` counts from
 * any epoch and may not go backwards. pose is where the vehicle was then; NULL if that is not known: past sweeps
 * are then left out. After an error all is as before. */
cp_status cp_push_sweep(cp_detector *detector, const cp_cloud *cloud, int64_t stamp_ns, const cp_pose *pose);

/* Forgets all sweeps, say after a jump in time. */
cp_status cp_clear_sweeps(cp_detector *detector);

/* As cp_detect(), for the sweeps that were pushed: past points are moved to where the newest sweep sees them. */
cp_status cp_detect_sweeps(cp_detector *detector, cp_box *boxes, size_t capacity, size_t *found);

/* The boxes of the last frame again; none if it failed. */
cp_status cp_last_boxes(const cp_detector *detector, cp_box *boxes, size_t capacity, size_t *found);

/* Counters and times of the last frame; all 0 if it failed. */
cp_status cp_last_frame(const cp_detector *detector, cp_frame_info *info);

/* Whether frames kept to their time, by now. */
cp_status cp_deadline(const cp_detector *detector, cp_deadline_info *info);

#ifdef __cplusplus
}
#endif

#endif
