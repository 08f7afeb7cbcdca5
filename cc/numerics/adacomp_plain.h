// Plain segments of packets: one code of 8 or 16 bits per element (docs/adacomp.md).
#ifndef TF_LOWPREC_CC_NUMERICS_ADACOMP_PLAIN_H_
#define TF_LOWPREC_CC_NUMERICS_ADACOMP_PLAIN_H_

#include <cstdint>
#include <cstring>

#include "cc/numerics/adacomp_packet.h"
#include "cc/numerics/adacomp_selection.h"
#include "cc/numerics/macros.h"

LOWPREC_BEGIN_NAMESPACE

// From bit 0: a field of an index, a sign bit, and a bit that is set in the first code of a bin.
// The index takes as many bits of its field as the bin size asks for; in the others a first code
// says how many empty bins come before its own. A code that is not the first has an index above 0,
// so that field 0 without that bit is free to stand for empty bins: one, or, with the sign bit, as
// many as the next code says, plus 2.
template <typename Code>
struct PlainCode {
  static constexpr int kFieldBits = 8 * static_cast<int>(sizeof(Code)) - 2;
  static constexpr Code kField = (1 << kFieldBits) - 1;
  static constexpr Code kSign = 1 << kFieldBits;
  static constexpr Code kFirst = 1 << (kFieldBits + 1);
  static constexpr Code kEmptyBin = 0;
  static constexpr Code kEmptyRun = kSign;
  static constexpr int64_t kLongestRun = (int64_t{1} << (8 * sizeof(Code))) + 1;

  int index_bits;

  LOWPREC_HD explicit PlainCode(int bin_size) : index_bits(CeilLog2(bin_size)) {}

  static LOWPREC_HD Code Of(uint32_t selected) {
    return static_cast<Code>((selected & kField) | (selected >> 14 << kFieldBits));
  }
  // How many of a run of empty bins the first code after it says.
  LOWPREC_HD int64_t Skipped(int64_t empty) const {
    const int64_t most = kField >> index_bits;
    return empty < most ? empty : most;
  }
  // A bin's first element, after a run of `empty` empty bins.
  LOWPREC_HD Code OfFirst(uint32_t selected, int64_t empty) const {
    return static_cast<Code>(Of(selected) | Skipped(empty) << index_bits);
  }
  // put(code) for a run of empty bins, but those that the first code after it says; `last`: none
  // comes after it.
  template <typename Put>
  LOWPREC_HD void PutEmptyBins(int64_t empty, bool last, Put put) const {
    if (!last) empty -= Skipped(empty);
    while (empty > 1) {
      const int64_t run = empty < kLongestRun ? empty : kLongestRun;
      put(kEmptyRun);
      put(static_cast<Code>(run - 2));
      empty -= run;
    }
    if (empty == 1) put(kEmptyBin);
  }
};

#if !defined(__CUDACC__)  // the host's writer

// Codes that are looked at together, as vectors of GCC's and Clang's own.
constexpr int kPlainBlock = 16;
template <typename T>
struct PlainVector {
  using Type __attribute__((vector_size(kPlainBlock * sizeof(T)))) = T;
};
using SelectedBlock = PlainVector<uint16_t>::Type;

template <typename Vector>
inline bool IsZero(const Vector& v) {
  uint64_t words[sizeof(v) / 8], any = 0;
  memcpy(words, &v, sizeof(v));
  for (const uint64_t word : words) any |= word;
  return any == 0;
}

// Whether the codes of kPlainBlock selected ones are PlainCode::Of them, one by one: none of their
// empty bins is one of a run, or said by a first code (`skips`). Reads one selected code more.
inline bool IsPlainBlock(const uint16_t* selected, bool skips) {
  SelectedBlock own, next;
  memcpy(&own, selected, sizeof(own));
  memcpy(&next, selected + 1, sizeof(next));
  const SelectedBlock empty = own == 0;
  return IsZero(skips ? empty : empty & (next == 0));
}

// sink.Block(selected) and sink.Put(code) for all codes of a segment.
template <typename Code, typename Sink>
inline void ForEachPlainCode(const Selection& s, Sink* sink) {
  const PlainCode<Code> plain(s.bin_size);
  const bool skips = plain.Skipped(1) > 0;
  int64_t i = 0;
  while (i < s.num_codes) {
    const bool whole = s.num_codes - i > kPlainBlock;
    if (whole && IsPlainBlock(s.codes + i, skips)) {
      sink->Block(s.codes + i);
      i += kPlainBlock;
      continue;
    }
    const int64_t end = whole ? i + kPlainBlock : s.num_codes;
    while (i < end) {
      const int64_t run = i;
      while (i < s.num_codes && s.codes[i] == 0) ++i;
      const bool last = i == s.num_codes;
      plain.PutEmptyBins(i - run, last, [sink](Code code) { sink->Put(code); });
      if (last) break;
      sink->Put(i == run ? plain.Of(s.codes[i]) : plain.OfFirst(s.codes[i], i - run));
      ++i;
    }
  }
}

struct PlainCount {
  int64_t codes = 0;
  void Block(const uint16_t*) { codes += kPlainBlock; }
  void Put(uint32_t) { ++codes; }
};

template <typename Code>
struct PlainWriter {
  char* out;
  void Block(const uint16_t* selected) {
    using P = PlainCode<Code>;
    SelectedBlock own;
    memcpy(&own, selected, sizeof(own));
    own = (own & P::kField) | (own >> 14 << P::kFieldBits);
    const auto codes = __builtin_convertvector(own, typename PlainVector<Code>::Type);
    memcpy(out, &codes, sizeof(codes));
    out += sizeof(codes);
  }
  void Put(Code code) {
    memcpy(out, &code, sizeof(code));
    out += sizeof(code);
  }
};

template <typename Code>
inline int64_t PlainWords(const Selection& s) {
  PlainCount count;
  count.codes = s.num_codes;
  if (s.num_empty > 0) {
    count.codes = 0;
    ForEachPlainCode<Code>(s, &count);
  }
  const int64_t per_word = 4 / sizeof(Code);
  return (count.codes + per_word - 1) / per_word;
}

// Little-endian within words; the last word is filled with zeros.
template <typename Code>
inline void WritePlain(const Selection& s, uint32_t* words, int64_t num_words) {
  if (num_words == 0) return;
  words[num_words - 1] = 0;
  PlainWriter<Code> writer = {reinterpret_cast<char*>(words)};
  ForEachPlainCode<Code>(s, &writer);
}

#endif

// Where a reader of a segment's codes is.
template <typename Code>
struct PlainReader {
  using P = PlainCode<Code>;

  const char* in;
  const char* const end;
  const int64_t num_elements;
  const int bin_size, index_bits;
  int64_t begin;  // of the current bin

  LOWPREC_HD PlainReader(const uint32_t* words, int64_t num_words, int64_t num_elements,
                         int bin_size)
      : in(reinterpret_cast<const char*>(words)),
        end(in + 4 * num_words),
        num_elements(num_elements),
        bin_size(bin_size),
        index_bits(P(bin_size).index_bits),
        begin(-bin_size) {}

  LOWPREC_HD Code Next() {
    Code code;
    memcpy(&code, in, sizeof(code));
    in += sizeof(code);
    return code;
  }
  LOWPREC_HD static bool IsOfEmptyBins(Code code) { return (code & (P::kField | P::kFirst)) == 0; }
  // After the last bin, zeros fill the last word.
  LOWPREC_HD bool InLastBin() const { return begin + bin_size >= num_elements; }
  // Moves to the last of the empty bins that `code` stands for; false if they are too many.
  LOWPREC_HD bool Skip(Code code) {
    int64_t bins = 1;
    if (code == P::kEmptyRun) {
      if (in == end) return false;
      bins = int64_t{Next()} + 2;
    }
    begin += bins * bin_size;
    return begin < num_elements;
  }
  // Moves to the bin of an element's code, and returns its index there: `first` is its bit. A code
  // that is not the first says nothing of empty bins: else its index, which then is all of its
  // field, is not in a bin.
  LOWPREC_HD int64_t Index(Code code, int64_t first) {
    const int64_t field = code & P::kField;
    begin += bin_size * (first + (field >> index_bits));
    return field & (((int64_t{1} << index_bits) - 1) | (first - 1));
  }
};

// visit(position, sign bit as bit 31) for each element of a segment that CheckPlain found sound.
template <typename Code, typename Visit>
LOWPREC_HD_INLINE void WalkPlain(const uint32_t* words, int64_t num_words, int64_t num_elements,
                                 int bin_size, Visit visit) {
  using P = PlainCode<Code>;
  PlainReader<Code> reader(words, num_words, num_elements, bin_size);
  while (reader.in != reader.end) {
    const Code code = reader.Next();
    if (reader.IsOfEmptyBins(code)) {
      if (reader.InLastBin()) return;
      reader.Skip(code);
      continue;
    }
    // No branches here: which codes are first cannot be foreseen.
    const int64_t index = reader.Index(code, code >> (P::kFieldBits + 1));
    visit(reader.begin + index, static_cast<uint32_t>(code >> P::kFieldBits & 1) << 31);
  }
}

#if !defined(__CUDACC__)

// The sum of a block, which is below 2^16.
inline int64_t SumOfBlock(const SelectedBlock& v) {
  uint64_t words[sizeof(v) / 8], sum = 0;
  memcpy(words, &v, sizeof(v));
  for (const uint64_t word : words) sum += word;
  return static_cast<int64_t>(sum * 0x0001000100010001u >> 48);
}

// Of kPlainBlock codes: those that are an empty bin's, as a mask, and the others' indices, as
// PlainReader::Index has them; empty bins get the last index, which no further element comes after.
template <typename Code>
struct PlainBlock {
  using Vector = typename PlainVector<Code>::Type;
  Vector field, first, empty, index;

  PlainBlock(const char* in, const PlainReader<Code>& reader) {
    using P = PlainCode<Code>;
    Vector codes;
    memcpy(&codes, in, sizeof(codes));
    field = codes & P::kField;
    first = codes >> (P::kFieldBits + 1);
    empty = (Vector)(codes == P::kEmptyBin);
    const Code mask = static_cast<Code>((1 << reader.index_bits) - 1);
    const Code last = static_cast<Code>(reader.bin_size - 1);
    index = (field & (mask | (first - 1)) & ~empty) | (empty & last);
  }
};

// Goes behind the next kPlainBlock codes and adds their elements to `sent`, if they make sense for
// sure; else returns false. They have to be behind the first, begin no run of empty bins, and end
// before the last bin. next: the least index that a further element of the bin may have.
template <typename Code>
inline bool CheckPlainBlock(PlainReader<Code>* reader, int64_t* next, int64_t* sent) {
  using Block = PlainBlock<Code>;
  using Vector = typename Block::Vector;
  const Block block(reader->in, *reader), before(reader->in - sizeof(Code), *reader);
  Vector bad = (Vector)(block.index <= before.index) & (Vector)(block.first == 0) & ~block.empty;
  // What is before the first of them may be a run's length: *next knows.
  bad[0] = block.first[0] == 0 && block.empty[0] == 0 && block.index[0] < *next;
  bad |= (Vector)(block.index >= static_cast<Code>(reader->bin_size));
  const Vector bins = block.first + (block.empty & 1) + (block.field >> reader->index_bits);
  const int64_t begin =
      reader->begin + reader->bin_size * SumOfBlock(__builtin_convertvector(bins, SelectedBlock));
  if (!IsZero(bad) || begin + reader->bin_size >= reader->num_elements) return false;
  reader->in += sizeof(Vector);
  reader->begin = begin;
  *next = block.index[kPlainBlock - 1] + 1;
  *sent += kPlainBlock;
  if (!IsZero(block.empty)) {
    *sent -= SumOfBlock(__builtin_convertvector(Vector(block.empty & 1), SelectedBlock));
  }
  return true;
}

#endif

// The number of elements of a segment, or -1 if some code makes no sense.
template <typename Code>
LOWPREC_HD_INLINE int64_t CheckPlain(const uint32_t* words, int64_t num_words, int64_t num_elements,
                                     int bin_size) {
  using P = PlainCode<Code>;
  PlainReader<Code> reader(words, num_words, num_elements, bin_size);
  int64_t next = bin_size, sent = 0;
  bool sound = true;
#if !defined(__CUDACC__)
  const char* again = reader.in + sizeof(Code);  // where the next block is tried
#endif
  while (reader.in != reader.end) {
#if !defined(__CUDACC__)
    constexpr int kBytes = kPlainBlock * sizeof(Code);
    if (reader.in >= again && reader.end - reader.in >= kBytes) {
      if (CheckPlainBlock(&reader, &next, &sent)) continue;
      again = reader.in + kBytes;
    }
#endif
    const Code code = reader.Next();
    if (reader.IsOfEmptyBins(code)) {
      if (reader.InLastBin()) {
        sound = sound && code == 0 && reader.end - reader.in < 4 - static_cast<int>(sizeof(Code));
        for (; reader.in != reader.end; ++reader.in) sound = sound && *reader.in == 0;
        break;
      }
      if (!reader.Skip(code)) return -1;
      next = bin_size;
      continue;
    }
    const int64_t first = code >> (P::kFieldBits + 1);
    const int64_t index = reader.Index(code, first);
    next &= first - 1;
    sound = sound & (index >= next) & (index < bin_size) & (reader.begin + index < num_elements);
    next = index + 1;
    ++sent;
  }
  return sound && reader.InLastBin() ? sent : -1;
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_ADACOMP_PLAIN_H_
