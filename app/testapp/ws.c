/* WebSocket (RFC 6455): the handshake with its SHA-1 and base64, then an echo of every message. */
#define _GNU_SOURCE
#include "testapp.h"

#include <endian.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { OP_TEXT = 1, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10, MAX_PAYLOAD = 8192, IDLE_MS = 3600000 };
enum { CLOSE_PROTOCOL_ERROR = 1002, CLOSE_TOO_BIG = 1009 };

static uint32_t rotate(uint32_t value, int by) { return value << by | value >> (32 - by); }

static void sha1_block(uint32_t state[5], const unsigned char block[64]) {
    uint32_t w[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 16; i++) {
        memcpy(&w[i], block + 4 * i, 4);
        w[i] = be32toh(w[i]);
    }
    for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 ? b ^ c ^ d : i < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
        uint32_t k = i < 20 ? 0x5A827999u : i < 40 ? 0x6ED9EBA1u : i < 60 ? 0x8F1BBCDCu : 0xCA62C1D6u;
        uint32_t next = rotate(a, 5) + f + e + k + w[i];
        e = d, d = c, c = rotate(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

/* SHA-1 of a text of at most 119 bytes (two blocks), which a key and its suffix never exceed. */
static void sha1_short(const char *text, size_t size, unsigned char out[20]) {
    uint32_t state[5] = {0x67452301u, 0xEFCDAB89u, 0x98BADCFEu, 0x10325476u, 0xC3D2E1F0u};
    unsigned char padded[128] = {0};
    size_t total = size < 56 ? 64 : 128;
    uint64_t bits = htobe64((uint64_t)size * 8);
    memcpy(padded, text, size);
    padded[size] = 0x80;
    memcpy(padded + total - 8, &bits, 8);
    for (size_t at = 0; at < total; at += 64) sha1_block(state, padded + at);
    for (int i = 0; i < 5; i++) {
        uint32_t word = htobe32(state[i]);
        memcpy(out + 4 * i, &word, 4);
    }
}

static void base64_20(const unsigned char in[20], char out[29]) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0, o = 0; i < 20; i += 3, o += 4) {
        unsigned group = (unsigned)in[i] << 16 | (unsigned)in[i + 1] << 8 | (i + 2 < 20 ? in[i + 2] : 0u);
        out[o] = digits[group >> 18 & 63];
        out[o + 1] = digits[group >> 12 & 63];
        out[o + 2] = digits[group >> 6 & 63];
        out[o + 3] = i + 2 < 20 ? digits[group & 63] : '=';
    }
    out[28] = '\0';
}

static bool send_frame(struct conn *conn, unsigned first_byte, const void *payload, size_t size) {
    unsigned char frame[4 + MAX_PAYLOAD];
    size_t head = 2;
    frame[0] = (unsigned char)first_byte;
    if (size < 126) {
        frame[1] = (unsigned char)size;
    } else {
        frame[1] = 126;
        frame[2] = (unsigned char)(size >> 8);
        frame[3] = (unsigned char)size;
        head = 4;
    }
    memcpy(frame + head, payload, size);
    return send_all(conn->fd, frame, head + size);
}

static bool send_close(struct conn *conn, unsigned code) {
    unsigned char payload[2] = {(unsigned char)(code >> 8), (unsigned char)code};
    send_frame(conn, 0x80 | OP_CLOSE, payload, sizeof payload);
    return false;
}

/* Have at least `size` bytes in the buffer. */
static bool need(struct conn *conn, size_t size) {
    while (conn->used < size) {
        if (fill(conn, IDLE_MS, false) <= 0) return false;
    }
    return true;
}

/* Read one frame and answer it. False: the conversation is over. */
static bool echo_frame(struct conn *conn) {
    unsigned char *in = (unsigned char *)conn->buffer;
    size_t head = 6;
    if (!need(conn, 2)) return false;
    size_t size = in[1] & 127;
    if ((in[1] & 128) == 0 || (in[0] & 0x70) != 0) return send_close(conn, CLOSE_PROTOCOL_ERROR);
    if (size == 127) return send_close(conn, CLOSE_TOO_BIG);
    if (size == 126) {
        if (!need(conn, 4)) return false;
        size = (size_t)in[2] << 8 | in[3];
        head = 8;
    }
    if (size > MAX_PAYLOAD) return send_close(conn, CLOSE_TOO_BIG);
    if (!need(conn, head + size)) return false;
    for (size_t i = 0; i < size; i++) in[head + i] ^= in[head - 4 + i % 4];
    unsigned opcode = in[0] & 15;
    bool goes_on = true;
    if (opcode == OP_CLOSE) {
        send_frame(conn, 0x80 | OP_CLOSE, in + head, size < 2 ? 0 : 2);
        return false;
    }
    if (opcode == OP_PING) goes_on = send_frame(conn, 0x80 | OP_PONG, in + head, size);
    else if (opcode <= 2) goes_on = send_frame(conn, in[0], in + head, size); /* a part comes back as a part */
    else if (opcode != OP_PONG) return send_close(conn, CLOSE_PROTOCOL_ERROR);
    consume(conn, head + size);
    return goes_on;
}

bool serve_websocket(struct conn *conn, const struct request *request) {
    char seed[96], accept[29], headers[192];
    unsigned char digest[20];
    if (!request->wants_upgrade || request->websocket_key == NULL || strlen(request->websocket_key) != 24)
        return reply(conn, request, 426, "Upgrade: websocket\r\n", "a WebSocket is served here\n");
    int size = snprintf(seed, sizeof seed, "%s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", request->websocket_key);
    sha1_short(seed, (size_t)size, digest);
    base64_20(digest, accept);
    snprintf(headers, sizeof headers, "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n", accept);
    size_t head_size = request->head_size;
    if (!send_head(conn, 101, headers)) return false;
    consume(conn, head_size);
    if (!send_frame(conn, 0x80 | OP_TEXT, settings.version, strlen(settings.version))) return false;
    while (echo_frame(conn)) continue;
    return false;
}
