# find_package(centerpoint CONFIG) defines
#   centerpoint::centerpoint  the shared library
#   centerpoint::static       the static library and its dependencies
# Paths are relative to this file, so the tree can be moved.

get_filename_component(_centerpoint_prefix "${CMAKE_CURRENT_LIST_DIR}/@UP@" ABSOLUTE)

foreach(_centerpoint_file "@LIBDIR@/@LIBRARY@" "@LIBDIR@/libcenterpoint.a" "include/centerpoint/centerpoint.h")
  if(NOT EXISTS "${_centerpoint_prefix}/${_centerpoint_file}")
    set(centerpoint_FOUND FALSE)
    set(centerpoint_NOT_FOUND_MESSAGE "${_centerpoint_prefix}/${_centerpoint_file} is missing")
    return()
  endif()
endforeach()

if(NOT TARGET centerpoint::centerpoint)
  add_library(centerpoint::centerpoint SHARED IMPORTED)
  set_target_properties(centerpoint::centerpoint PROPERTIES
    IMPORTED_LOCATION "${_centerpoint_prefix}/@LIBDIR@/@LIBRARY@"
    IMPORTED_SONAME "@SONAME@"
    INTERFACE_INCLUDE_DIRECTORIES "${_centerpoint_prefix}/include")
endif()

if(NOT TARGET centerpoint::static)
  add_library(centerpoint::static STATIC IMPORTED)
  set_target_properties(centerpoint::static PROPERTIES
    IMPORTED_LOCATION "${_centerpoint_prefix}/@LIBDIR@/libcenterpoint.a"
    INTERFACE_INCLUDE_DIRECTORIES "${_centerpoint_prefix}/include"
    INTERFACE_LINK_LIBRARIES "@NATIVE_CMAKE@")
endif()

unset(_centerpoint_file)
unset(_centerpoint_prefix)
