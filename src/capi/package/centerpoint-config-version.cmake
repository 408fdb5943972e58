# Versions 0.x are compatible within the same x, later ones within the same first number.

set(PACKAGE_VERSION "@VERSION@")
set(PACKAGE_VERSION_COMPATIBLE FALSE)
set(_centerpoint_series "@SERIES@")

if(NOT PACKAGE_FIND_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
elseif(NOT PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  if(_centerpoint_series MATCHES "^0\\.")
    set(_centerpoint_wanted "${PACKAGE_FIND_VERSION_MAJOR}.${PACKAGE_FIND_VERSION_MINOR}")
  else()
    set(_centerpoint_wanted "${PACKAGE_FIND_VERSION_MAJOR}")
  endif()
  if(_centerpoint_wanted VERSION_EQUAL _centerpoint_series)
    set(PACKAGE_VERSION_COMPATIBLE TRUE)
  endif()
  if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()

# A program with another pointer size cannot link it.
if(CMAKE_SIZEOF_VOID_P AND NOT CMAKE_SIZEOF_VOID_P EQUAL @POINTER@)
  set(PACKAGE_VERSION_UNSUITABLE TRUE)
endif()

unset(_centerpoint_series)
unset(_centerpoint_wanted)
