#include "bus/can/can_link.h"

namespace molmoact2::bus {

const char* name(CanHealth health) noexcept {
  switch (health) {
    case CanHealth::active:
      return "active";
    case CanHealth::warning:
      return "warning";
    case CanHealth::passive:
      return "passive";
    case CanHealth::bus_off:
      return "bus_off";
  }
  return "unknown";
}

}  // namespace molmoact2::bus
