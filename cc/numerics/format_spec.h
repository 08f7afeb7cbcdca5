// The text by which graphs, SavedModels and Python name a format:
//   fixed<IL,FL>
//   float<exponent_bits,mantissa_bits,specials[,saturate][,flush]>
// with specials one of ieee, fn, finite, dlfloat; flush: no subnormals. Host only.
#ifndef TF_LOWPREC_CC_NUMERICS_FORMAT_SPEC_H_
#define TF_LOWPREC_CC_NUMERICS_FORMAT_SPEC_H_

#include <cstdlib>
#include <string>
#include <vector>

#include "cc/numerics/format.h"

LOWPREC_BEGIN_NAMESPACE

// "" where the format is one that float32 can carry, else what is wrong with it.
inline std::string CheckFormat(const Format& f) {
  const auto outside = [](const char* name, int value, int low, int high) {
    return std::string(name) + " = " + std::to_string(value) + " must be in " +
           std::to_string(low) + ".." + std::to_string(high);
  };
  if (f.is_fixed) {
    const int il = f.fixed.integer_bits, fl = f.fixed.fractional_bits;
    if (il < 1 || il > 24) return outside("integer_bits", il, 1, 24);
    if (fl < 0 || fl > 23) return outside("fractional_bits", fl, 0, 23);
    if (il + fl > 24) {
      return outside("word length integer_bits + fractional_bits", il + fl, 1, 24) +
             ", since values are carried in float32";
    }
    return "";
  }
  const FloatFormat& g = f.floating;
  if (g.exponent_bits < 2 || g.exponent_bits > 8) {
    return outside("exponent_bits", g.exponent_bits, 2, 8);
  }
  if (g.mantissa_bits < 0 || g.mantissa_bits > 23) {
    return outside("mantissa_bits", g.mantissa_bits, 0, 23);
  }
  if (g.exponent_bits == 8 && g.specials != Specials::kIeee) {
    return "exponent_bits = 8 needs specials = 'ieee': float32, which carries the values, has no "
           "finite numbers in its top binade";
  }
  if (g.specials == Specials::kDlfloat && g.mantissa_bits == 0) {
    return "specials = 'dlfloat' needs mantissa_bits >= 1";
  }
  return "";
}

// Returns "" and fills *format, or returns what is wrong with `spec`.
inline std::string ParseFormat(const std::string& spec, Format* format) {
  const std::string wrong = "format '" + spec + "' is not fixed<IL,FL> or float<E,M,specials>: ";
  const size_t open = spec.find('<');
  if (open == std::string::npos || spec.back() != '>') return wrong + "no <...>";
  const std::string family = spec.substr(0, open);
  std::vector<std::string> fields(1);
  for (size_t i = open + 1; i + 1 < spec.size(); ++i) {
    if (spec[i] == ',') {
      fields.emplace_back();
    } else {
      fields.back() += spec[i];
    }
  }
  const auto number = [](const std::string& text, int* value) {
    char* end = nullptr;
    const long parsed = std::strtol(text.c_str(), &end, 10);
    *value = parsed < -1000 || parsed > 1000 ? 1000 : static_cast<int>(parsed);
    return !text.empty() && *end == '\0';
  };
  *format = Format{};
  if (fields.size() < 2) return wrong + "too few fields";
  if (family == "fixed") {
    format->is_fixed = true;
    if (fields.size() != 2 || !number(fields[0], &format->fixed.integer_bits) ||
        !number(fields[1], &format->fixed.fractional_bits)) {
      return wrong + "two integers expected";
    }
  } else if (family == "float") {
    FloatFormat& f = format->floating;
    f.subnormals = true;
    if (fields.size() < 3 || !number(fields[0], &f.exponent_bits) ||
        !number(fields[1], &f.mantissa_bits)) {
      return wrong + "two integers and specials expected";
    }
    if (fields[2] == "ieee") {
      f.specials = Specials::kIeee;
    } else if (fields[2] == "fn") {
      f.specials = Specials::kFn;
    } else if (fields[2] == "finite") {
      f.specials = Specials::kFinite;
    } else if (fields[2] == "dlfloat") {
      f.specials = Specials::kDlfloat;
      f.subnormals = false;
    } else {
      return wrong + "unknown specials '" + fields[2] + "'";
    }
    for (size_t i = 3; i < fields.size(); ++i) {
      if (fields[i] == "saturate") {
        f.saturate = true;
      } else if (fields[i] == "flush") {
        f.subnormals = false;
      } else {
        return wrong + "unknown flag '" + fields[i] + "'";
      }
    }
  } else {
    return wrong + "unknown family '" + family + "'";
  }
  const std::string problem = CheckFormat(*format);
  return problem.empty() ? "" : "format '" + spec + "': " + problem;
}

inline bool ParseRounding(const std::string& name, Rounding* rounding) {
  if (name == "nearest_even") {
    *rounding = Rounding::kNearestEven;
  } else if (name == "nearest_up") {
    *rounding = Rounding::kNearestUp;
  } else if (name == "stochastic") {
    *rounding = Rounding::kStochastic;
  } else if (name == "toward_zero") {
    *rounding = Rounding::kTowardZero;
  } else {
    return false;
  }
  return true;
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_FORMAT_SPEC_H_
