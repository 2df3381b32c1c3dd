/*
 * testapp: a tiny HTTP/1.1 server whose behaviour during a deploy is set by its environment.
 * Shared by the four files: main (life cycle), http (one connection), routes (endpoints), ws (WebSocket).
 */
#ifndef TESTAPP_H
#define TESTAPP_H

#include <stdbool.h>
#include <stddef.h>

enum { BUFFER_SIZE = 16384, STALL_MS = 10000 };

/* Read once at the start; -1 means "never". Times are milliseconds since the start. */
struct settings {
    const char *version;
    const char *host;
    char hostname[256];
    long port;
    bool finish_on_term;
    bool unhealthy;
    bool log_requests;
    long start_delay_ms;
    long unhealthy_after_ms;
    long healthy_after_ms;
    long flap_ms;
    long idle_close_ms;
    long exit_after_ms;
    long exit_code;
};

/* One client connection; bytes read ahead stay in `buffer` for the next request. */
struct conn {
    int fd;
    bool keep;
    bool served; /* carried at least one request */
    size_t used;
    char buffer[BUFFER_SIZE + 1];
};

/* Points into the connection's buffer, which it owns until the reply is written. */
struct request {
    char *method;
    char *path;
    char *query;
    char *cookie;
    char *websocket_key;
    bool is_head;
    bool is_http10;
    bool wants_close;
    bool wants_upgrade;
    bool expects_continue;
    bool is_chunked;
    long long content_length;
    size_t head_size;
};

extern struct settings settings;
extern int stop_fd; /* becomes readable when the server is to stop, and stays so */

/* main.c */
long now_ms(void);
bool is_stopping(void);
void sleep_until(long at_ms);
void log_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* http.c */
void serve_connection(struct conn *conn);
bool send_all(int fd, const void *data, size_t size);
bool reply(struct conn *conn, const struct request *request, int status, const char *headers, const char *body);
bool send_head(struct conn *conn, int status, const char *headers);
int fill(struct conn *conn, long timeout_ms, bool stops);
void consume(struct conn *conn, size_t size);

/* routes.c */
bool route(struct conn *conn, const struct request *request);
bool query_value(const struct request *request, const char *name, char *out, size_t size);

/* ws.c */
bool serve_websocket(struct conn *conn, const struct request *request);

#endif
