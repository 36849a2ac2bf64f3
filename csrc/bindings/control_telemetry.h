// What the loop recorded, on its way to Python.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "control/telemetry.h"

namespace molmoact2::bindings {

struct CollectedRecords {
  std::vector<control::TickRecord> records;
  std::uint64_t newest = 0;
  std::uint64_t lost = 0;  // overwritten before they were read
};

// The records that follow number `after` and are still in the ring.
CollectedRecords collect_records(const control::TelemetryRing& ring, std::uint64_t after);

pybind11::dict statistics_dict(const control::LoopStatistics& statistics);
pybind11::object last_record(const control::TelemetryRing& ring, std::size_t joint_count);
// (list of dictionaries, newest, lost)
pybind11::tuple record_dicts(const control::TelemetryRing& ring, std::uint64_t after,
                             std::size_t joint_count);
// (dictionary of arrays, newest, lost); states and reasons as their numbers
pybind11::tuple record_columns(const control::TelemetryRing& ring, std::uint64_t after,
                               std::size_t joint_count);

}  // namespace molmoact2::bindings
