//! Stage nms.
