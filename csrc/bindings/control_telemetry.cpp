// What the loop recorded, as Python objects: dictionaries for people, columns of numbers for analysis.
#include "bindings/control_telemetry.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/joint_arrays.h"

namespace py = pybind11;

namespace molmoact2::bindings {

using namespace control;

namespace {

constexpr double kNanosecond = 1e-9;

py::dict histogram_dict(const Histogram& histogram) {
  py::dict summary;
  summary["count"] = histogram.count();
  summary["mean_s"] = histogram.mean() * kNanosecond;
  summary["p50_s"] = static_cast<double>(histogram.quantile(0.50)) * kNanosecond;
  summary["p95_s"] = static_cast<double>(histogram.quantile(0.95)) * kNanosecond;
  summary["p99_s"] = static_cast<double>(histogram.quantile(0.99)) * kNanosecond;
  summary["p999_s"] = static_cast<double>(histogram.quantile(0.999)) * kNanosecond;
  summary["max_s"] = static_cast<double>(histogram.max()) * kNanosecond;
  return summary;
}

template <typename Counters>
py::dict reason_dict(const Counters& counters) {
  py::dict counts;
  for (std::size_t i = 0; i < counters.size(); ++i) {
    const std::uint64_t count = counters[i].load(std::memory_order_relaxed);
    if (count > 0) {
      counts[name(static_cast<Reason>(i))] = count;
    }
  }
  return counts;
}

py::dict record_dict(const TickRecord& record, std::size_t joint_count) {
  py::dict entry;
  entry["tick"] = record.tick;
  entry["run"] = record.run;
  entry["state"] = name(record.state);
  entry["reason"] = name(record.reason);
  entry["rejected_chunk"] = name(record.rejected_chunk);
  entry["followed"] = record.followed;
  entry["deadline_ns"] = record.deadline;
  entry["wakeup_ns"] = record.wakeup;
  entry["period_ns"] = record.period;
  entry["read_ns"] = record.read_duration;
  entry["write_ns"] = record.write_duration;
  entry["written_ns"] = record.write_time;
  entry["busy_ns"] = record.busy;
  entry["skipped_periods"] = record.skipped_periods;
  entry["step"] = record.step;
  entry["chunk"] = record.chunk;
  entry["observed_ns"] = record.observed_time;
  entry["action"] = record.action;
  entry["remaining_steps"] = record.remaining_steps;
  entry["frozen_error"] = record.frozen_error;
  entry["unfrozen_steps"] = record.unfrozen_steps;
  entry["limited_joints"] = record.limited_joints;
  entry["measured_ns"] = record.measured_time;
  entry["measured"] = to_array(record.measured, joint_count);
  entry["target"] = to_array(record.target, joint_count);
  entry["command"] = to_array(record.command, joint_count);
  return entry;
}

// One array per field; a column of T, or of rows of joint_count numbers.
template <typename T, typename Field>
py::array_t<T> column(const std::vector<TickRecord>& records, Field field) {
  py::array_t<T> values(static_cast<py::ssize_t>(records.size()));
  std::transform(records.begin(), records.end(), values.mutable_data(),
                 [field](const TickRecord& record) { return static_cast<T>(record.*field); });
  return values;
}

py::array_t<double> joint_column(const std::vector<TickRecord>& records, JointVector TickRecord::* field,
                                 std::size_t joint_count) {
  py::array_t<double> values(
      {static_cast<py::ssize_t>(records.size()), static_cast<py::ssize_t>(joint_count)});
  double* row = values.mutable_data();
  for (const TickRecord& record : records) {
    const JointVector& joints = record.*field;
    row = std::copy(joints.begin(), joints.begin() + static_cast<std::ptrdiff_t>(joint_count), row);
  }
  return values;
}

}  // namespace

py::dict statistics_dict(const LoopStatistics& statistics) {
  const auto value = [](const LoopStatistics::Counter& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  py::dict all;
  all["ticks"] = value(statistics.ticks);
  all["executed_steps"] = value(statistics.executed_steps);
  all["overruns"] = value(statistics.overruns);
  all["skipped_periods"] = value(statistics.skipped_periods);
  all["read_failures"] = value(statistics.read_failures);
  all["write_failures"] = value(statistics.write_failures);
  all["chunks_taken"] = value(statistics.chunks_taken);
  all["chunks_not_continuing"] = value(statistics.chunks_not_continuing);
  all["chunks_beyond_frozen"] = value(statistics.chunks_beyond_frozen);
  py::dict states;
  for (std::size_t i = 0; i < kStateCount; ++i) {
    states[name(static_cast<State>(i))] = value(statistics.state_ticks[i]);
  }
  all["state_ticks"] = states;
  all["reason_ticks"] = reason_dict(statistics.reason_ticks);
  all["reason_events"] = reason_dict(statistics.reason_events);
  all["rejected_chunks"] = reason_dict(statistics.rejected_chunks);
  all["period"] = histogram_dict(statistics.period);
  all["wakeup_latency"] = histogram_dict(statistics.wakeup_latency);
  all["bus"] = histogram_dict(statistics.bus);
  all["busy"] = histogram_dict(statistics.busy);
  all["state_age"] = histogram_dict(statistics.state_age);
  all["observation_age"] = histogram_dict(statistics.observation_age);
  all["observation_to_action"] = histogram_dict(statistics.observation_to_action);
  return all;
}

CollectedRecords collect_records(const TelemetryRing& ring, std::uint64_t after) {
  CollectedRecords collected;
  collected.newest = ring.written();
  const std::uint64_t oldest =
      collected.newest > ring.capacity() ? collected.newest - ring.capacity() + 1 : 1;
  collected.lost = oldest > after + 1 ? oldest - after - 1 : 0;
  TickRecord record;
  for (std::uint64_t position = std::max(after + 1, oldest); position <= collected.newest; ++position) {
    if (ring.read(position, record)) {
      collected.records.push_back(record);
    } else {
      ++collected.lost;  // overwritten while the others were copied
    }
  }
  return collected;
}

py::object last_record(const TelemetryRing& ring, std::size_t joint_count) {
  TickRecord record;
  if (!ring.read(ring.written(), record)) {
    return py::none();
  }
  return record_dict(record, joint_count);
}

py::tuple record_dicts(const TelemetryRing& ring, std::uint64_t after, std::size_t joint_count) {
  const CollectedRecords collected = collect_records(ring, after);
  py::list records;
  for (const TickRecord& record : collected.records) {
    records.append(record_dict(record, joint_count));
  }
  return py::make_tuple(records, collected.newest, collected.lost);
}

py::tuple record_columns(const TelemetryRing& ring, std::uint64_t after, std::size_t joint_count) {
  const CollectedRecords collected = collect_records(ring, after);
  const std::vector<TickRecord>& records = collected.records;
  const py::dict columns;
  columns["tick"] = column<std::uint64_t>(records, &TickRecord::tick);
  columns["run"] = column<std::uint32_t>(records, &TickRecord::run);
  columns["state"] = column<std::uint8_t>(records, &TickRecord::state);
  columns["reason"] = column<std::uint8_t>(records, &TickRecord::reason);
  columns["rejected_chunk"] = column<std::uint8_t>(records, &TickRecord::rejected_chunk);
  columns["followed"] = column<bool>(records, &TickRecord::followed);
  columns["deadline_ns"] = column<std::int64_t>(records, &TickRecord::deadline);
  columns["wakeup_ns"] = column<std::int64_t>(records, &TickRecord::wakeup);
  columns["period_ns"] = column<std::int64_t>(records, &TickRecord::period);
  columns["read_ns"] = column<std::int64_t>(records, &TickRecord::read_duration);
  columns["write_ns"] = column<std::int64_t>(records, &TickRecord::write_duration);
  columns["written_ns"] = column<std::int64_t>(records, &TickRecord::write_time);
  columns["busy_ns"] = column<std::int64_t>(records, &TickRecord::busy);
  columns["skipped_periods"] = column<std::int64_t>(records, &TickRecord::skipped_periods);
  columns["step"] = column<std::int64_t>(records, &TickRecord::step);
  columns["chunk"] = column<std::uint64_t>(records, &TickRecord::chunk);
  columns["observed_ns"] = column<std::int64_t>(records, &TickRecord::observed_time);
  columns["action"] = column<double>(records, &TickRecord::action);
  columns["remaining_steps"] = column<std::int64_t>(records, &TickRecord::remaining_steps);
  columns["frozen_error"] = column<double>(records, &TickRecord::frozen_error);
  columns["unfrozen_steps"] = column<std::int64_t>(records, &TickRecord::unfrozen_steps);
  columns["limited_joints"] = column<std::uint32_t>(records, &TickRecord::limited_joints);
  columns["measured_ns"] = column<std::int64_t>(records, &TickRecord::measured_time);
  columns["measured"] = joint_column(records, &TickRecord::measured, joint_count);
  columns["target"] = joint_column(records, &TickRecord::target, joint_count);
  columns["command"] = joint_column(records, &TickRecord::command, joint_count);
  return py::make_tuple(columns, collected.newest, collected.lost);
}

}  // namespace molmoact2::bindings
