//! TODO-skeleton kitti
