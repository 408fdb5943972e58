/* Detects objects in frames of packed floats x y z intensity t, one by one and as sweeps, and prints the bytes of their
 * boxes:
 *
 *     frames FILE.plan cpu|cuda FRAME.bin...
 */
#include <centerpoint/centerpoint.h>

#include <stdio.h>
#include <stdlib.h>

#define COLUMNS 5
#define MAX_BOXES 500

static void check(cp_status status, const char *what) {
    if (status != CP_OK) {
        fprintf(stderr, "frames: %s: %s\n", what, cp_last_error());
        exit(1);
    }
}

/* Reads a file; the caller frees it. */
static void *read_file(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    void *data = NULL;
    long size = 0;
    if (file != NULL && fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) > 0 && fseek(file, 0, SEEK_SET) == 0) {
        data = malloc((size_t)size);
    }
    if (data == NULL || fread(data, 1, (size_t)size, file) != (size_t)size) {
        fprintf(stderr, "frames: %s: cannot be read\n", path);
        exit(1);
    }
    fclose(file);
    *bytes = (size_t)size;
    return data;
}

static void print(const char *what, const cp_box *boxes, size_t found) {
    const unsigned char *bytes = (const unsigned char *)boxes;
    size_t i;
    printf("%s %lu ", what, (unsigned long)found);
    for (i = 0; i < found * sizeof *boxes; ++i) {
        printf("%02x", bytes[i]);
    }
    printf("\n");
}

int main(int argc, char **argv) {
    static const char *const names[COLUMNS] = {"x", "y", "z", "intensity", "t"};
    static cp_box boxes[MAX_BOXES];
    cp_field fields[COLUMNS];
    cp_detector *detector;
    cp_options options;
    uint32_t column;
    int i;
    if (argc < 4) {
        fprintf(stderr, "usage: frames FILE.plan cpu|cuda FRAME.bin...\n");
        return 2;
    }
    for (column = 0; column < COLUMNS; ++column) {
        fields[column].name = names[column];
        fields[column].offset = column * (uint32_t)sizeof(float);
        fields[column].datatype = CP_FLOAT32;
        fields[column].count = 1;
    }
    CP_INIT(options);
    options.device = strcmp(argv[2], "cuda") == 0 ? CP_DEVICE_CUDA : CP_DEVICE_CPU;
    check(cp_load(argv[1], &options, &detector), argv[1]);
    for (i = 3; i < argc; ++i) {
        const cp_pose pose = {0.5 * i, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0};
        size_t found;
        cp_cloud cloud;
        void *data;
        CP_INIT(cloud);
        cloud.data = data = read_file(argv[i], &cloud.data_size);
        cloud.point_step = (uint32_t)sizeof(float[COLUMNS]);
        cloud.width = (uint32_t)(cloud.data_size / cloud.point_step);
        cloud.height = 1;
        cloud.fields = fields;
        cloud.field_count = COLUMNS;
        check(cp_detect(detector, &cloud, boxes, MAX_BOXES, &found), argv[i]);
        print("frame", boxes, found);
        check(cp_push_sweep(detector, &cloud, i * INT64_C(100000000), &pose), argv[i]);
        check(cp_detect_sweeps(detector, boxes, MAX_BOXES, &found), "the sweeps");
        print("sweeps", boxes, found);
        free(data);
    }
    cp_free(detector);
    return 0;
}
