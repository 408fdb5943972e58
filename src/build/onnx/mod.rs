//! ONNX files: read, check, edit, write.
